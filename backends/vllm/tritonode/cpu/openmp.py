"""GNU's OpenMP library: its teams of threads, and the CPUs that they run on."""

from __future__ import annotations

import contextlib
import ctypes
import os
import threading


class Gomp:
    """Return the libgomp that is installed with torch. Raises OSError if torch uses another OpenMP library."""

    def __init__(self) -> None:
        self._library = ctypes.CDLL("libgomp.so.1", mode=os.RTLD_NOLOAD | os.RTLD_LAZY)
        # The function that a compiler calls for `#pragma omp parallel`.
        self._library.GOMP_parallel.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_uint, ctypes.c_uint]
        self._library.GOMP_parallel.restype = None

    def start_team(self, threads: int) -> None:
        """Give the calling thread a team of this size. It lives as long as that thread."""
        does_nothing = ctypes.cast(self._library.omp_get_thread_num, ctypes.c_void_p)
        self._library.GOMP_parallel(does_nothing, None, threads, 0)

    def team(self, threads: int) -> list[int]:
        """Return the kernel's ids of the threads in the calling thread's team, beginning with the calling thread."""
        ids = [0] * threads

        @ctypes.CFUNCTYPE(None, ctypes.c_void_p)
        def note(_: object) -> None:
            ids[self._library.omp_get_thread_num()] = threading.get_native_id()

        self._library.GOMP_parallel(ctypes.cast(note, ctypes.c_void_p), None, threads, 0)
        return ids


class SleepingTeam:
    """A second team of threads that does nothing but sleep.

    In a process with more OpenMP threads than CPUs, libgomp lets a waiting thread check for work a hundred times and
    then sleep, whatever GOMP_SPINCOUNT says (libgomp's manual, under that name). This team makes that rule apply.
    """

    def __init__(self, gomp: Gomp, threads: int) -> None:
        self._gomp = gomp
        self._threads = threads
        self._end: threading.Event | None = None

    def start(self) -> None:
        """Start the team. Does nothing if it runs."""
        if self._end is None:
            self._end = threading.Event()
            threading.Thread(target=self._sleep, args=(self._end,), name="openmp-sleeping", daemon=True).start()

    def stop(self) -> None:
        """End the team. Does nothing if there is none."""
        if self._end is not None:
            self._end.set()
            self._end = None

    def _sleep(self, end: threading.Event) -> None:
        self._gomp.start_team(self._threads)
        end.wait()


class Binding:
    """Binds each thread of a team to a separate CPU.

    Args:
        team: ids of at most as many threads as there are CPUs that this process may use, the calling thread's first.
    """

    def __init__(self, team: list[int]) -> None:
        self._team = team
        self._all = os.sched_getaffinity(0)
        self._cpus = _spread(self._all)
        self._known = _threads_of_this_process()
        self._current_cpu = ctypes.CDLL(None).sched_getcpu

    def bind(self) -> None:
        """Bind each thread to a CPU; the first one, which is the caller, stays on its current CPU."""
        here = self._current_cpu()
        if here not in self._all:
            return
        others = (cpu for cpu in self._cpus if cpu != here)
        _allow(self._team[0], {here})
        for thread, cpu in zip(self._team[1:], others, strict=False):
            _allow(thread, {cpu})

    def release_first(self) -> None:
        """Let the first thread use all CPUs, so that it wakes up on a free one."""
        _allow(self._team[0], self._all)

    def release(self) -> None:
        """Let all threads use all CPUs."""
        for thread in _threads_of_this_process():
            _allow(thread, self._all)

    def release_new_threads(self) -> None:
        """Let threads that started since the last call use all CPUs: each inherited its starter's CPU."""
        threads = _threads_of_this_process()
        for thread in threads - self._known:
            _allow(thread, self._all)
        self._known = threads


def _threads_of_this_process() -> set[int]:
    return {int(name) for name in os.listdir("/proc/self/task")}


def _allow(thread: int, cpus: set[int]) -> None:
    # The thread may have ended by now, or a control group may no longer allow the CPUs.
    with contextlib.suppress(OSError):
        os.sched_setaffinity(thread, cpus)


def _spread(cpus: set[int]) -> list[int]:
    """Sort CPUs so that a second CPU of the same core comes as late as possible."""
    cores: dict[str, list[int]] = {}
    for cpu in sorted(cpus):
        cores.setdefault(_siblings(cpu), []).append(cpu)
    rank = {cpu: position for threads in cores.values() for position, cpu in enumerate(threads)}
    return sorted(cpus, key=lambda cpu: (rank[cpu], cpu))


def _siblings(cpu: int) -> str:
    """Return the kernel's list of the CPUs that share this one's core, or this CPU's number if there is no list."""
    try:
        with open(f"/sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list", encoding="ascii") as file:
            return file.read().strip()
    except OSError:
        return str(cpu)
