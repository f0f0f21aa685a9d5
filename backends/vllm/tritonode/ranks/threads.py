"""How many OpenMP threads a rank on the CPU has, and how they wait for each other.

OpenMP gives each process a thread for each CPU, and vLLM chooses another number only where it binds threads to CPUs,
which this package does not let it do by default. Two ranks on two CPUs then have four threads, and in each parallel
region those that run wait for those that do not.
"""

from __future__ import annotations

import contextlib
import os

COUNT, SPINS = "OMP_NUM_THREADS", "GOMP_SPINCOUNT"

_loaded_with: dict[str, str | None] = {}


def share_cpus(ranks: int) -> None:
    """Give each rank that starts later an equal share of the CPUs that this process may use, at least one."""
    os.environ[COUNT] = str(max(1, len(os.sched_getaffinity(0)) // ranks))


def note_environment() -> None:
    """In a rank that was just forked: remember what OpenMP was loaded with. Call it before the environment is set."""
    _loaded_with[SPINS] = os.environ.get(SPINS)


def apply_environment() -> None:
    """In a rank: wait and have as many threads as the environment says. Call it on the thread that computes.

    OpenMP reads the environment when it is loaded, and for a forked rank that was before the fork.
    """
    import torch

    count = os.environ.get(COUNT, "")
    if count.isdecimal() and int(count) not in (0, torch.get_num_threads()):
        torch.set_num_threads(int(count))
    if torch.get_num_threads() > 1 and _loaded_with.get(SPINS, os.environ.get(SPINS)) != os.environ.get(SPINS):
        _spin_briefly(torch.get_num_threads())


def _spin_briefly(threads: int) -> None:
    """Let this process's threads sleep after a hundred checks for work.

    A warm child has OpenMP check as often as is best for an engine that `cpu.pace` controls, and libgomp has no
    function to change that. Without that control, threads that wait keep the CPUs from those that they wait for.
    """
    from tritonode.cpu.openmp import Gomp, SleepingTeam

    # Without GNU's OpenMP, or a free thread, they wait as they did.
    with contextlib.suppress(OSError, RuntimeError):
        SleepingTeam(Gomp(), max(2, len(os.sched_getaffinity(0)) - threads + 2)).start()
