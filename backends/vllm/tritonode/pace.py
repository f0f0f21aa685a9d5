"""How long the engine's OpenMP threads wait awake for each other, chosen by what else the machine has to do.

A step is some hundred short parallel regions. Threads that wait for the next one awake are quickest on a machine that
has nothing else to do. Where the host computes too, the thread that they wait for has no core, because they have it:
the engine nearly stops. libgomp has a rule against that (GOMP_SPINCOUNT in its manual): in a process with more OpenMP
threads than CPUs, a thread that waits looks a hundred times for work and then sleeps. So while others need the CPUs, a
second team of threads is kept here, asleep, and makes the rule hold.
"""

from __future__ import annotations

import ctypes
import os
import threading
import time

# Of a core. Others that take this much leave the team one thread that has to wait for its turn. The caller's own share
# of a busy engine is a tenth of a core.
_BUSY_CORES = 0.35
_QUIET_CORES = 0.2
# The kernel counts in ticks of 10 ms: 25 of them are enough to tell the two apart.
_LOOK_SECONDS = 0.25


class OtherLoad:
    """CPU that other processes take on the CPUs that this one may use, counted from `begin` to `end` and on and on."""

    def __init__(self) -> None:
        self.cpus = {f"cpu{number}" for number in os.sched_getaffinity(0)}
        self.seconds = 0.0
        self._others = 0.0
        self._last: tuple[float, float, float] | None = None

    @property
    def begun(self) -> bool:
        return self._last is not None

    def begin(self) -> None:
        self._last = self._now()

    def end(self) -> None:
        """Count up to now, and then no more."""
        self.count()
        self._last = None

    def count(self) -> None:
        """Count up to now."""
        if self._last is None:
            return
        now, last = self._now(), self._last
        wall, busy, own = (after - before for after, before in zip(now, last, strict=True))
        self._last = now
        self.seconds += wall
        self._others += busy - own

    def take(self) -> float:
        """How many cores others used in the `seconds` that were counted, on average. Counting starts anew."""
        cores = max(0.0, self._others) / self.seconds if self.seconds > 0 else 0.0
        self.seconds = self._others = 0.0
        return cores

    def _now(self) -> tuple[float, float, float]:
        """(time, busy time of the CPUs, this process's own), each in seconds."""
        ticks = 0
        with open("/proc/stat", encoding="ascii") as file:
            for line in file:
                name, *fields = line.split()
                if not name.startswith("cpu"):
                    break
                if name in self.cpus:
                    # user, nice, system, irq, softirq, steal; idle and iowait are what is left (proc_stat(5)).
                    user, nice, system, _, _, irq, softirq, steal = (int(field) for field in fields[:8])
                    ticks += user + nice + system + irq + softirq + steal
        return time.monotonic(), ticks / os.sysconf("SC_CLK_TCK"), time.process_time()


class Crowd:
    """A team of OpenMP threads that does nothing but be there."""

    def __init__(self, threads: int) -> None:
        self._gomp = _libgomp()
        self._threads = threads
        self._leave: threading.Event | None = None

    @property
    def available(self) -> bool:
        return self._gomp is not None

    @property
    def present(self) -> bool:
        return self._leave is not None

    def come(self) -> None:
        """Start the team; nothing if it is there."""
        if self._leave is None and self._gomp is not None:
            self._leave = threading.Event()
            threading.Thread(
                target=self._stay, args=(self._gomp, self._leave), name="openmp-crowd", daemon=True
            ).start()

    def go(self) -> None:
        """End the team; nothing if there is none."""
        if self._leave is not None:
            self._leave.set()
            self._leave = None

    def _stay(self, gomp: ctypes.CDLL, leave: threading.Event) -> None:
        # A team lives as long as the thread that started it. What it runs does not matter.
        gomp.GOMP_parallel(ctypes.cast(gomp.omp_get_thread_num, ctypes.c_void_p), None, self._threads, 0)
        leave.wait()


class Pace:
    """Keeps a crowd while others need the CPUs. Used on the thread that steps the engine."""

    def __init__(self, engine_threads: int) -> None:
        self._load = OtherLoad()
        cpus = len(self._load.cpus)
        self._engine_threads, self._cpus = engine_threads, cpus
        # Enough for one thread more than there are CPUs; a team's first thread is counted by nobody.
        self._crowd = Crowd(max(2, cpus - engine_threads + 2))
        self._next = 0.0
        self._resting = True

    @property
    def needed(self) -> bool:
        """Whether there is a team to be paced."""
        return self._crowd.available and self._engine_threads > 1

    @property
    def yielding(self) -> bool:
        return self._crowd.present

    def step(self) -> None:
        """Called before each step of the engine; looks at the load four times a second, which takes 0.1 ms."""
        if self._resting:
            # Somebody waits for this step's token, the first one.
            self._resting = False
            return
        now = time.monotonic()
        if not self._load.begun:
            self._load.begin()
        elif now < self._next:
            return
        else:
            self._load.count()
            self._judge()
        self._next = now + _LOOK_SECONDS

    def rest(self) -> None:
        """Called when the engine has nothing to do: what others do then does not hold it up."""
        if not self._resting:
            self._resting = True
            self._load.end()
            self._judge()

    def _judge(self) -> None:
        if self._load.seconds >= _LOOK_SECONDS:
            self.decide(self._load.take())

    def decide(self, others: float) -> None:
        """Come or go by how many cores others use."""
        missing = self._engine_threads + others - self._cpus
        if missing > _BUSY_CORES:
            self._crowd.come()
        elif missing < _QUIET_CORES:
            self._crowd.go()


def _libgomp() -> ctypes.CDLL | None:
    """GNU's OpenMP library that torch brought with it; None where torch has another one."""
    try:
        gomp = ctypes.CDLL("libgomp.so.1", mode=os.RTLD_NOLOAD | os.RTLD_LAZY)
        gomp.GOMP_parallel.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_uint, ctypes.c_uint]
        gomp.GOMP_parallel.restype = None
    except (OSError, AttributeError):
        return None
    return gomp
