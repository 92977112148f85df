"""Several processes: what they give back, what an error says, and that none is left, whatever they do."""

import os
import time

import psutil
import pytest
import torch
import torch.distributed as dist

from peftlab.lab import processes

FACTOR = 3


def helper(x):
    return FACTOR * x


def sums(rank, size, x, change):
    total = helper(x) * (rank + 1)
    dist.all_reduce(total)
    return {"rank": rank, "size": size, "total": change(total), "pid": os.getpid()}


def one_more(x):
    return x + 1


def posts(rank, size):
    send, receive, sent = processes.mail()
    x = torch.full((3,), float(rank))
    send(x, 1 - rank)
    time.sleep(3 * rank)  # rank 0 has returned by the time rank 1 asks
    x.add_(100)  # what is under way is not touched by it
    return receive(1 - rank, x), sent


def hangs(rank, size, file):
    with open(f"{file}-{rank}", "w") as out:
        out.write(str(os.getpid()))
    print("about to wait", flush=True)
    while True:
        time.sleep(1)


def raises(rank, size):
    if rank == 1:
        raise ValueError("no such luck")
    dist.barrier()


def ends(rank, size):
    print("gone", flush=True)
    os._exit(3)


def family():
    return {p.pid for p in psutil.Process().children(recursive=True)}


@pytest.fixture(autouse=True)
def nothing_is_left():
    before = family()
    yield
    assert family() <= before


def test_each_gives_back_what_it_made_and_is_gone():
    done = processes.run(sums, size=2, seconds=120, x=torch.ones(2), change=one_more)
    assert [d["rank"] for d in done] == [0, 1] and all(d["size"] == 2 for d in done)
    assert all(torch.equal(d["total"], torch.full((2,), 10.0)) for d in done)
    assert not any(psutil.pid_exists(d["pid"]) for d in done)


def test_tensors_are_sent_as_they_were_and_counted():
    (at_0, sent), (at_1, _) = processes.run(posts, seconds=120)
    assert torch.equal(at_0, torch.full((3,), 1.0)) and torch.equal(at_1, torch.zeros(3)) and sent == [12]


def test_one_that_hangs_is_ended_and_what_it_printed_is_told(tmp_path):
    for seconds in (20, 60, 180):  # on a busy machine it takes long until both have begun
        began = time.monotonic()
        with pytest.raises(TimeoutError, match=f"after {seconds} seconds 2 processes were not done") as caught:
            processes.run(hangs, seconds=seconds, file=str(tmp_path / "pid"))
        assert time.monotonic() - began < seconds + 60
        pids = [int(p.read_text()) for p in tmp_path.iterdir() if p.read_text()]
        assert not any(psutil.pid_exists(pid) for pid in pids)
        if len(pids) == 2:
            break
    assert len(pids) == 2 and "about to wait" in str(caught.value)


def test_they_end_by_themselves_when_the_one_that_started_them_is_killed(tmp_path):
    pid = os.fork() if hasattr(os, "fork") else pytest.skip("no fork here")
    if pid == 0:
        try:
            processes.run(hangs, seconds=240, file=str(tmp_path / "pid"))
        finally:
            os._exit(0)
    try:
        for _ in range(1800):
            if len([p for p in tmp_path.iterdir() if p.read_text()]) == 2:
                break
            time.sleep(0.1)
        torchrun = [p.pid for p in psutil.Process(pid).children()]
    finally:
        os.kill(pid, 9)
        os.waitpid(pid, 0)
    pids = [int(p.read_text()) for p in tmp_path.iterdir()]
    assert len(pids) == 2 and torchrun
    pids += torchrun
    _, left = psutil.wait_procs([psutil.Process(p) for p in pids if psutil.pid_exists(p)], timeout=60)
    for each in left:
        each.kill()
    assert not left


def test_an_error_is_told_in_the_words_of_the_process_that_had_it():
    with pytest.raises(
        processes.ProcessError, match="process 1 stopped with ValueError: no such luck\n  raises: raise ValueError"
    ) as caught:
        processes.run(raises, seconds=120)
    assert caught.value.rank == 1 and caught.value.told.startswith("ValueError")


def test_one_that_ends_without_a_word_is_an_error():
    with pytest.raises(processes.ProcessError, match=r"status 1(.|\n)*exitcode"):
        processes.run(ends, seconds=120)


def test_what_cannot_be_sent_is_refused_before_anything_starts():
    layer = torch.nn.Linear(2, 2)
    with pytest.raises(TypeError, match="x is a Linear, which can't be sent"):
        processes.run(sums, x=layer, change=one_more)

    def inner(rank, size):
        return layer

    with pytest.raises(TypeError, match="outside of other functions"):
        processes.run(inner)
    with pytest.raises(TypeError, match="there is no source of made"):
        scope = {}
        exec("def made(rank, size): pass", scope)  # noqa: S102
        processes.run(scope["made"])
