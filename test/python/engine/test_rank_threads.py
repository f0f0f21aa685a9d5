"""How many OpenMP threads a rank has, and how they wait, whatever OpenMP was loaded with before the fork."""

from __future__ import annotations

import os

import pytest
import torch
from tritonode.ranks import threads


@pytest.fixture
def torch_threads(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The numbers of threads that torch was given; the first is what a forked rank starts with."""
    given = [8]
    monkeypatch.setattr(torch, "get_num_threads", lambda: given[-1])
    monkeypatch.setattr(torch, "set_num_threads", given.append)
    monkeypatch.setattr(threads, "_loaded_with", {})
    return given


@pytest.mark.parametrize(("cpus", "ranks", "expected"), [(2, 2, "1"), (8, 2, "4"), (7, 2, "3"), (2, 4, "1")])
def test_ranks_share_the_cpus(monkeypatch: pytest.MonkeyPatch, cpus: int, ranks: int, expected: str) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(cpus)))
    monkeypatch.setenv(threads.COUNT, "")
    threads.share_cpus(ranks)
    assert os.environ[threads.COUNT] == expected


@pytest.mark.parametrize(("named", "expected"), [("4", [8, 4]), ("8", [8]), ("0", [8]), ("4,2", [8]), (None, [8])])
def test_a_rank_has_as_many_as_the_environment_says(
    monkeypatch: pytest.MonkeyPatch, torch_threads: list[int], named: str | None, expected: list[int]
) -> None:
    monkeypatch.delenv(threads.COUNT, raising=False)
    if named is not None:
        monkeypatch.setenv(threads.COUNT, named)
    threads.apply_environment()
    assert torch_threads == expected


@pytest.mark.parametrize(
    ("loaded_with", "named", "count", "brief"),
    [
        ("20000", "2000", "2", [2]),
        ("20000", "2000", "1", []),
        ("2000", "2000", "2", []),
        (None, "2000", "2", [2]),
        ("20000", "20000", "2", []),
    ],
    ids=["warm", "one thread", "cold", "nothing chosen", "users"],
)
def test_threads_of_a_forked_rank_do_not_keep_the_cpus(
    monkeypatch: pytest.MonkeyPatch,
    torch_threads: list[int],
    loaded_with: str | None,
    named: str,
    count: str,
    brief: list[int],
) -> None:
    found: list[int] = []
    monkeypatch.setattr(threads, "_spin_briefly", found.append)
    monkeypatch.delenv(threads.SPINS, raising=False)
    if loaded_with is not None:
        monkeypatch.setenv(threads.SPINS, loaded_with)
    threads.note_environment()
    monkeypatch.setenv(threads.SPINS, named)
    monkeypatch.setenv(threads.COUNT, count)
    threads.apply_environment()
    assert found == brief


def test_a_spawned_rank_waits_as_openmp_was_loaded(monkeypatch: pytest.MonkeyPatch, torch_threads: list[int]) -> None:
    monkeypatch.setattr(threads, "_spin_briefly", lambda _: pytest.fail("nothing was inherited"))
    monkeypatch.setenv(threads.SPINS, "2000")
    monkeypatch.setenv(threads.COUNT, "4")
    threads.apply_environment()
    assert torch_threads == [8, 4]
