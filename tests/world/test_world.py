"""Every method on every architecture holds what it promises, or says why it does not."""
import guard
import pytest
from architectures import ARCHITECTURES
from guard import COLUMNS
from world_page import PAGE, blanks, noted, page, read

# Found wrong and not yet mended: a cell that is no longer wrong is to be taken off.
OPEN = set()


UNUSUAL = ("T5", "BatchNorm")  # an encoder and a decoder; running statistics


def small(arch, column):
    """Whether the ordinary suite looks at this cell: each architecture and each method has some."""
    return column.name == "LoRA" or column in guard.VIRTUAL or arch.name in UNUSUAL


def cells(wanted):
    return [pytest.param(a, c, id=f"{a.name}|{c.name}") for a in ARCHITECTURES.values() for c in COLUMNS.values() if wanted(a, c)]


def look(arch, column, world):
    found = world[arch.name, column.name] = guard.cell(arch, column)
    known = (arch.name, column.name) in OPEN
    assert (found["word"] == "WRONG") == known, found["why"] or "it is right now: take it off the list of what is open"


@pytest.mark.parametrize("arch, column", cells(small))
def test_it_holds_or_is_refused(arch, column, world):
    look(arch, column, world)


@pytest.mark.whole_world
@pytest.mark.parametrize("arch, column", cells(lambda a, c: not small(a, c)))
def test_the_rest_holds_or_is_refused(arch, column, world):
    look(arch, column, world)


@pytest.mark.parametrize("name", [a.name for a in ARCHITECTURES.values() if a.mask])
def test_the_base_alone_answers_a_padded_row_as_the_row_alone(name):
    assert guard.pads(name)


def test_the_page_has_no_blank_and_nothing_wrong_and_says_what_was_found(world, request):
    found = {key: noted(what) for key, what in world.items()}
    if request.config.getoption("--write-world-page", default=False):
        kept = read(PAGE.read_text(encoding="utf-8")) if PAGE.exists() else {}
        PAGE.write_text(page({**kept, **found}), encoding="utf-8")
    on_page = read(PAGE.read_text(encoding="utf-8"))
    assert blanks(on_page) == []
    now = {key: (word, on_page[key][0]) for key, (word, _) in found.items() if word != on_page[key][0]}
    assert not now, f"run `python -m pytest tests/world --whole-world --write-world-page`: {now}"
