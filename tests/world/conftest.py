"""The flags of the table of architecture by method, and what was found in this run."""
import pytest
import torch

WORLD = {}                                                   # (architecture, column) -> what guard.cell found


def pytest_addoption(parser):
    parser.addoption("--whole-world", action="store_true", help="try every method on every architecture")
    parser.addoption("--write-world-page", action="store_true", help="write docs/architectures.md from a whole run")


def pytest_configure(config):
    config.addinivalue_line("markers", "whole_world: one of the many that only --whole-world runs")


def pytest_collection_modifyitems(config, items):
    if not config.getoption("--whole-world", default=False):
        items[:] = [i for i in items if not i.get_closest_marker("whole_world")]


@pytest.fixture(scope="session")
def world():
    return WORLD


@pytest.fixture(autouse=True)
def one_thread():
    """Tiny models are quicker so, and equal to the bit."""
    n = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(n)
