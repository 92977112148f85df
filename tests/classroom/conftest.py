"""What the classroom's tests share."""

from contextlib import nullcontext

import pytest

from peftlab.classroom import judge


@pytest.fixture(scope="module")
def one_sandbox():
    """`peftlab grade`, called again and again in one process, keeps its sandbox: each start imports torch anew."""
    with judge.Sandbox() as sandbox, pytest.MonkeyPatch.context() as patch:
        patch.setattr(judge, "Sandbox", lambda *_: nullcontext(sandbox))
        yield sandbox
