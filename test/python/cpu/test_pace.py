"""The pace of OpenMP threads: the load of others, the second team that makes threads sleep, and bound CPUs."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch  # noqa: F401 - brings libgomp
from tritonode.cpu.openmp import Binding, Gomp
from tritonode.cpu.pace import OtherLoad, Pace

BACKEND = Path(__file__).parents[3] / "backends" / "vllm"

# One thread of the team looks for work for ever (GOMP_SPINCOUNT) after each parallel region.
SPINNER = """
import os, sys, time
sys.path.insert(0, sys.argv[1])
import torch
from tritonode.cpu.openmp import Gomp, SleepingTeam
torch.set_num_threads(2)
sleeping = SleepingTeam(Gomp(), len(os.sched_getaffinity(0)) + 1)

def spun():
    torch.ones(1 << 22).add_(1)
    time.sleep(0.05)  # a team that comes or goes does so on threads of its own
    torch.ones(1 << 22).add_(1)
    before = time.process_time()
    time.sleep(0.4)
    return time.process_time() - before

print(spun())
sleeping.start()
time.sleep(0.2)
print(spun())
sleeping.stop()
time.sleep(0.2)
print(spun())
"""


def burn(seconds: float) -> None:
    """Use one core of this process."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        pass


def _own_and_others() -> tuple[float, float]:
    """Seconds that are counted while this process alone uses a core, and while another one does."""
    load = OtherLoad()
    load.begin()
    burn(0.8)
    load.count()
    assert load.seconds >= 0.8
    own = load.take()
    burner = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    try:
        time.sleep(0.3)
        load.begin()
        time.sleep(0.8)
        load.end()
    finally:
        burner.kill()
        burner.wait()
    return own, load.take()


def test_others_are_counted_and_this_process_is_not() -> None:
    # Programs that run beside the tests are counted too, as they come and go.
    pairs = (_own_and_others() for _ in range(8))
    assert any(others > 0.5 and own < others - 0.3 for own, others in pairs)


def test_what_is_not_counted_is_no_load() -> None:
    load = OtherLoad()
    load.begin()
    load.end()
    seconds = load.seconds
    time.sleep(0.2)
    load.count()
    assert load.seconds == seconds < 0.1
    load.take()
    assert load.take() == 0


def test_a_sleeping_team_makes_waiting_threads_sleep_while_it_runs() -> None:
    output = subprocess.run(
        [sys.executable, "-c", SPINNER, str(BACKEND)],
        env={"GOMP_SPINCOUNT": "infinity", "OMP_NUM_THREADS": "2"},
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    alone, sleeping, after = (float(line) for line in output.stdout.split())
    assert sleeping < 0.1
    assert alone > 3 * sleeping
    assert after > 3 * sleeping


# A team of two threads in a process of its own: who may run where, at each turn.
TEAM = """
import json, os, sys, threading, time
sys.path.insert(0, sys.argv[1])
import torch
from tritonode.cpu.openmp import Gomp
from tritonode.cpu.pace import Pace
torch.set_num_threads(2)
torch.ones(1 << 22).add_(1)
gomp = Gomp()
team = gomp.team(2)
assert team[0] == threading.get_native_id() and team[1] != team[0]
pace = Pace(gomp, 2)
masks = lambda: [sorted(os.sched_getaffinity(thread)) for thread in team]
pace.step()
bound = masks()
stranger = threading.Thread(target=time.sleep, args=(60,), daemon=True)
stranger.start()
of_stranger = lambda: sorted(os.sched_getaffinity(stranger.native_id))
inherited = of_stranger()
pace._binding.release_new_threads()
freed = of_stranger()
pace.decide(1)
released = masks()
pace.decide(0)
again = masks()
torch.ones(1 << 22).add_(1)
same = gomp.team(2) == team
pace.rest()
print(json.dumps({"bound": bound, "inherited": inherited, "freed": freed, "released": released, "again": again,
    "same": same, "resting": masks()}))
"""


@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="one CPU")
def test_each_thread_of_the_team_has_a_cpu_of_its_own_until_others_need_it() -> None:
    output = subprocess.run(
        [sys.executable, "-c", TEAM, str(BACKEND)], capture_output=True, text=True, timeout=120, check=True
    )
    seen = json.loads(output.stdout)
    every = sorted(os.sched_getaffinity(0))
    assert [len(cpus) for cpus in seen["bound"]] == [1, 1]
    assert seen["bound"][0] != seen["bound"][1]
    assert seen["inherited"] == seen["bound"][0]
    assert seen["freed"] == every
    assert seen["released"] == [every, every]
    assert sorted(map(len, seen["again"])) == [1, 1] and seen["again"][0] != seen["again"][1]
    assert seen["same"]
    assert seen["resting"] == [every, seen["again"][1]]


def test_threads_that_have_ended_are_passed_over() -> None:
    thread = threading.Thread(target=lambda: None)
    thread.start()
    thread.join()
    assert thread.native_id is not None
    binding = Binding([thread.native_id])
    binding.bind()
    binding.release()


@pytest.fixture
def gomp() -> Iterator[Gomp]:
    """The library; the test's own thread may use all CPUs again afterwards."""
    cpus = os.sched_getaffinity(0)
    yield Gomp()
    os.sched_setaffinity(0, cpus)


@pytest.mark.parametrize(
    ("threads", "cpus", "others", "yielding"),
    [
        (2, 2, 0.0, False),
        (2, 2, 1.0, True),
        (2, 2, 0.1, False),
        (4, 8, 1.0, False),
        (8, 8, 1.0, True),
        (4, 8, 5.0, True),
        (4, 2, 0.0, True),
    ],
)
def test_it_yields_where_others_need_a_core_of_the_team(
    threads: int, cpus: int, others: float, yielding: bool, monkeypatch: pytest.MonkeyPatch, gomp: Gomp
) -> None:
    monkeypatch.setattr("os.sched_getaffinity", lambda _: set(range(cpus)))
    pace = Pace(gomp, threads, bind=False)
    try:
        pace.decide(others)
        assert pace.yielding is yielding
    finally:
        pace.decide(-threads)
    assert not pace.yielding


def test_a_thread_beside_the_engine_needs_a_cpu_too(gomp: Gomp) -> None:
    pace = Pace(gomp, len(OtherLoad().cpus), bind=False, beside=1.0)
    try:
        pace.decide(0)
        assert pace.yielding
    finally:
        pace.decide(-2)
    assert not pace.yielding


def test_between_the_two_limits_nothing_changes(gomp: Gomp) -> None:
    pace = Pace(gomp, len(OtherLoad().cpus))
    pace.decide(0.3)
    assert not pace.yielding
    pace.decide(1)
    pace.decide(0.3)
    assert pace.yielding
    pace.decide(0)
    assert not pace.yielding


class Decisions(Pace):
    """Writes down instead of acting."""

    def __init__(self, gomp: Gomp) -> None:
        super().__init__(gomp, 2, bind=False)
        self.seen: list[float] = []

    def decide(self, others: float) -> None:
        self.seen.append(others)


def test_without_a_descriptor_left_the_engine_goes_on(gomp: Gomp, monkeypatch: pytest.MonkeyPatch) -> None:
    pace = Pace(gomp, 2)

    def refuse(*_: object, **__: object) -> None:
        raise OSError(24, "Too many open files")

    pace.step()
    monkeypatch.setattr("builtins.open", refuse)
    monkeypatch.setattr("os.listdir", refuse)
    for _ in range(3):
        pace.step()
    pace.rest()
    assert not pace.yielding


def run_steps(pace: Pace, seconds: float) -> None:
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        pace.step()
        time.sleep(0.001)


def test_it_looks_four_times_a_second(gomp: Gomp) -> None:
    pace = Decisions(gomp)
    run_steps(pace, 1.1)
    assert 2 <= len(pace.seen) <= 4


def test_rests_are_left_out_and_short_work_adds_up(gomp: Gomp) -> None:
    pace = Decisions(gomp)
    for _ in range(4):
        run_steps(pace, 0.1)
        pace.rest()
        pace.rest()
        time.sleep(0.3)
    assert 1 <= len(pace.seen) <= 2  # with the rests it would be six
