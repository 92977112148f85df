"""Keep what the ladder found, for the page that shows it."""

import re

import pytest

RESULTS = {}  # (test, "method-architecture") -> (outcome, difference or None)


def pytest_addoption(parser):
    parser.addoption("--write-methods-page", action="store_true", help="write docs/methods.md from this run")


def pytest_runtest_logreport(report):
    found = re.search(r"test_ladder\.py::(test_\d+_\w+)\[(.+)\]$", report.nodeid)
    if report.when == "call" and found:
        RESULTS[found[1], found[2]] = report.outcome, dict(report.user_properties).get("difference")


@pytest.fixture
def ladder_results():
    return RESULTS
