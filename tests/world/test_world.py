"""Every method on every architecture holds what it promises, or says why it does not."""
import guard
import pytest
from architectures import ARCHITECTURES
from guard import COLUMNS


def small(arch, column):
    """Whether the ordinary suite looks at this cell."""
    return column.name == "LoRA"


def cells(wanted):
    return [pytest.param(a, c, id=f"{a.name}|{c.name}") for a in ARCHITECTURES.values() for c in COLUMNS.values() if wanted(a, c)]


def look(arch, column, world):
    found = world[arch.name, column.name] = guard.cell(arch, column)
    assert found["word"] != "WRONG", found["why"]


@pytest.mark.parametrize("arch, column", cells(small))
def test_it_holds_or_is_refused(arch, column, world):
    look(arch, column, world)


@pytest.mark.whole_world
@pytest.mark.parametrize("arch, column", cells(lambda a, c: not small(a, c)))
def test_the_rest_holds_or_is_refused(arch, column, world):
    look(arch, column, world)
