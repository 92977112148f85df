"""docs/methods.md says what the classes say and what the ladder found in this very run."""

import re

import pytest
from methods_page import PAGE, blanks, comparable, page
from specs import SPECS

from peftlab import cli
from peftlab.lab import catalogue


def test_the_page_is_current(ladder_results, request):
    asked = [i.nodeid for i in request.session.items if "test_ladder.py::test_" in i.nodeid]
    if request.config.option.keyword or not asked:
        pytest.skip("only a run of the whole ladder can tell")
    made = page(ladder_results)
    if request.config.getoption("--write-methods-page", default=False):
        assert "**failed**" not in made
        PAGE.write_text(made, encoding="utf-8")
    advice = "run `python -m pytest tests/methods --write-methods-page`"
    assert comparable(PAGE.read_text(encoding="utf-8")) == comparable(made), advice


def test_every_method_is_in_the_table_and_the_table_has_no_blank():
    assert {spec.method for spec in SPECS} == set(catalogue.every().values())
    text = PAGE.read_text(encoding="utf-8")
    assert all(f"\n| {spec.name} | " in text for spec in SPECS)
    assert blanks(text) == []
    dash = "\n- PromptTuning: rung 4: "
    assert dash in text and blanks(text.replace(dash, "\n- PromptTuning: rung 4 on bert: ")) == [("PromptTuning", "4")]
    row = re.search(r"\| LoRA \|.*", text)[0]
    assert blanks(text.replace(row, row.replace("yes", "", 1))) == [("LoRA", "5")]


def test_rounding_may_differ_and_a_word_may_not():
    assert comparable("| LoRA | 3e-07 | yes |") == comparable("| LoRA | 0e+00 | yes |")
    assert comparable("| LoRA | 3e-07 | yes |") != comparable("| LoRA | 3e-07 | - |")
    assert comparable("| LoRA | 22 | 1,234 (lora) |") == comparable("| LoRA | 22 | 99 (lora) |")
    assert comparable("| LoRA | 22 | 1,234 (lora) |") != comparable("| LoRA | 23 | 1,234 (lora) |")


@pytest.mark.parametrize("name", catalogue.every())
def test_each_method_says_what_it_is(name):
    method = catalogue.every()[name]
    assert catalogue.equation(method) and catalogue.parameters(method), catalogue.home(method)
    assert catalogue.papers(method) or name in ("FullFineTuning", "HiRA", "TrainableTokens")


def test_code_is_counted_without_words(tmp_path):
    file = tmp_path / "a.py"
    file.write_text('"""Says\nwhat it is."""\n# why\n\ndef f(x):\n    """Words."""\n    return (x +\n            1)  # here\n')
    assert catalogue.lines(file) == 3


def test_the_command_lists_all_and_tells_of_one(capsys):
    assert cli.main(["methods"]) == 0
    out = capsys.readouterr().out
    assert all(name in out for name in catalogue.every())
    assert cli.main(["methods", "LoRA"]) == 0
    out = capsys.readouterr().out
    assert "2106.09685" in out and "lora.py" in out and "def after" in out
    assert cli.main(["methods", "lora"]) == 0
    assert capsys.readouterr().out == out
    with pytest.raises(SystemExit, match="did you mean LoRA"):
        cli.main(["methods", "Lorra"])
