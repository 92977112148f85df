"""What the classroom's tests share."""

import sys
from contextlib import nullcontext

import pytest

from peftlab.classroom import judge


@pytest.fixture(scope="module")
def one_sandbox():
    """`peftlab grade`, called again and again in one process, keeps its sandbox: each start imports torch anew."""
    if sys.platform != "linux":
        pytest.skip("learners' code is shut in on Linux only")
    with judge.Sandbox() as sandbox, pytest.MonkeyPatch.context() as patch:
        patch.setattr(judge, "Sandbox", lambda *_: nullcontext(sandbox))
        yield sandbox
