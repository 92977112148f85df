"""environment.yml and constraints.txt against pyproject.toml: one list of dependencies, and it resolves."""

import re
import subprocess
import sys
import tomllib
from importlib.metadata import version
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


@pytest.fixture
def conda():
    return yaml.safe_load((ROOT / "environment.yml").read_text(encoding="utf-8"))


def pins():
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    return dict(line.split("==") for line in lines if line and not line.startswith("#"))


def test_conda_environment_holds_no_second_list(conda):
    python, pip, from_pip = conda["dependencies"]
    assert conda["name"] == "peftlab"  # tasks.py knows the environment by it
    assert pip == "pip"
    assert from_pip == {"pip": ["-c constraints.txt", "-e .[all]"]}
    assert re.fullmatch(r"python=3\.\d+", python)
    assert python.removeprefix("python=") in SpecifierSet(PROJECT["requires-python"])
    assert conda["channels"] == ["conda-forge", "nodefaults"]


def test_what_conda_hands_to_pip_resolves(conda, tmp_path):
    """Everything is installed already, so pip can decide without a network that nothing is missing or in conflict."""
    requirements = tmp_path / "requirements.txt"
    requirements.write_text("\n".join(conda["dependencies"][-1]["pip"]) + "\n")
    (tmp_path / "constraints.txt").write_text(
        (ROOT / "constraints.txt").read_text()
    )  # found beside the file, as conda does
    command = [
        sys.executable,
        "-m",
        "pip",
        "install",
        "--dry-run",
        "--no-index",
        "--no-build-isolation",
        "-r",
        requirements,
    ]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    would = [line for line in done.stdout.splitlines() if line.startswith("Would install")]
    assert would in ([], ["Would install peftlab-" + PROJECT["version"]])


def test_every_requirement_is_pinned_within_its_range():
    extras = [r for name, list in PROJECT["optional-dependencies"].items() if name != "all" for r in list]
    for requirement in map(Requirement, PROJECT["dependencies"] + extras):
        name = requirement.name.lower().replace("_", "-")
        assert name in pins(), f"constraints.txt has no {name}"
        assert pins()[name] in requirement.specifier, f"{requirement} and {pins()[name]}"


def test_all_is_all():
    extras = PROJECT["optional-dependencies"]
    (everything,) = map(Requirement, extras["all"])
    assert everything.name == "peftlab" and everything.extras == set(extras) - {"all"}


def test_these_tests_run_in_the_pinned_versions():
    for name in ("torch", "transformers", "peft", "datasets", "nbgrader", "nbval"):
        assert version(name).split("+")[0] == pins()[name]


def test_nothing_committed_points_at_an_index_or_a_local_folder():
    for file in ("pyproject.toml", "constraints.txt", "environment.yml", "data/sources.toml"):
        assert not re.search(r"index-url|find-links|file://|@ ", (ROOT / file).read_text(encoding="utf-8")), file
