"""The pace of OpenMP threads: what others use, and that a crowd makes threads that wait sleep."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch  # noqa: F401 - brings libgomp, which a crowd needs
from tritonode.pace import OtherLoad, Pace

BACKEND = Path(__file__).parents[2] / "backends" / "vllm"

# One thread of the team looks for work for ever (GOMP_SPINCOUNT) after each parallel region.
SPINNER = """
import sys, time
sys.path.insert(0, sys.argv[1])
import torch
from tritonode.pace import Crowd
torch.set_num_threads(2)
crowd = Crowd(len(__import__("os").sched_getaffinity(0)) + 1)
assert crowd.available

def spun():
    torch.ones(1 << 22).add_(1)
    time.sleep(0.05)  # a team that comes or goes does so on threads of its own
    torch.ones(1 << 22).add_(1)
    before = time.process_time()
    time.sleep(0.4)
    return time.process_time() - before

print(spun())
crowd.come()
assert crowd.present
time.sleep(0.2)
print(spun())
crowd.go()
assert not crowd.present
time.sleep(0.2)
print(spun())
"""


def burn(seconds: float) -> None:
    """Use one core of this process."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        pass


def test_others_are_counted_and_this_process_is_not() -> None:
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
    others = load.take()
    assert others > 0.5
    assert own < others - 0.3


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


def test_a_crowd_makes_waiting_threads_sleep_while_it_is_there() -> None:
    output = subprocess.run(
        [sys.executable, "-c", SPINNER, str(BACKEND)],
        env={"GOMP_SPINCOUNT": "infinity", "OMP_NUM_THREADS": "2"},
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    alone, crowded, after = (float(line) for line in output.stdout.split())
    assert crowded < 0.1
    assert alone > 3 * crowded
    assert after > 3 * crowded


@pytest.mark.parametrize(
    ("threads", "cpus", "others", "yielding"),
    [
        (2, 2, 0.0, False),
        (2, 2, 1.0, True),
        (2, 2, 0.1, False),
        (4, 8, 1.0, False),
        (8, 8, 1.0, True),
        (4, 8, 5.0, True),
    ],
)
def test_it_yields_where_others_need_a_core_of_the_team(
    threads: int, cpus: int, others: float, yielding: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("os.sched_getaffinity", lambda _: set(range(cpus)))
    pace = Pace(threads)
    try:
        pace.decide(others)
        assert pace.yielding is yielding
    finally:
        pace.decide(0)
    assert not pace.yielding


def test_between_the_two_limits_nothing_changes() -> None:
    pace = Pace(len(OtherLoad().cpus))
    pace.decide(0.3)
    assert not pace.yielding
    pace.decide(1)
    pace.decide(0.3)
    assert pace.yielding
    pace.decide(0)
    assert not pace.yielding


def test_one_thread_waits_for_nobody() -> None:
    assert not Pace(1).needed
    assert Pace(2).needed


class Decisions(Pace):
    """Writes down instead of acting."""

    def __init__(self) -> None:
        super().__init__(2)
        self.seen: list[float] = []

    def decide(self, others: float) -> None:
        self.seen.append(others)


def run_steps(pace: Pace, seconds: float) -> None:
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        pace.step()
        time.sleep(0.001)


def test_it_looks_four_times_a_second() -> None:
    pace = Decisions()
    run_steps(pace, 1.1)
    assert 2 <= len(pace.seen) <= 4


def test_rests_are_left_out_and_short_work_adds_up() -> None:
    pace = Decisions()
    for _ in range(4):
        run_steps(pace, 0.1)
        pace.rest()
        pace.rest()
        time.sleep(0.3)
    assert len(pace.seen) == 1
