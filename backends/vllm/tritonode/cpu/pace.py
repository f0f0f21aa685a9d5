"""How the engine's OpenMP threads wait for each other, chosen by what else the machine has to do.

A step is some hundred short parallel regions. On a machine that has nothing else to do it is quickest if each thread
has a CPU of its own and waits for the next region awake. (Without CPUs of their own two of them meet on one after a
rest, each waiting for the other while it has the CPU: 15 ms instead of 3, until the kernel parts them.) Where the host
computes too, the thread that all wait for has no CPU, because they have it or because it may not take another: the
engine nearly stops. So while others need the CPUs, threads may use any of them and sleep instead of waiting awake.
"""

from __future__ import annotations

import contextlib
import os
import time

from .openmp import Binding, Crowd, Gomp

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
        try:
            self.count()
        finally:
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


class Pace:
    """Yields while others need the CPUs. Made and used on the thread that steps the engine, whose team it is.

    Args:
        gomp: the OpenMP library.
        threads: how many the engine's team has.
        bind: whether each may get a CPU of its own.
    """

    def __init__(self, gomp: Gomp, threads: int, bind: bool = True) -> None:
        self._load = OtherLoad()
        self._threads, self._cpus = threads, len(self._load.cpus)
        # Enough for one thread more than there are CPUs; a team's first thread is counted by nobody.
        self._crowd = Crowd(gomp, max(2, self._cpus - threads + 2))
        self._binding = Binding(gomp.team(threads)) if bind and threads <= self._cpus else None
        self._next = 0.0
        self._resting = True
        self.yielding = False

    def step(self) -> None:
        """Called before each step of the engine; looks at the load four times a second, which takes 0.1 ms."""
        # Without a descriptor or a thread left nothing is seen or changed, and the engine runs all the same.
        with contextlib.suppress(OSError, RuntimeError):
            self._step()

    def rest(self) -> None:
        """Called when the engine has nothing to do: what others do then does not hold it up."""
        with contextlib.suppress(OSError, RuntimeError):
            self._rest()

    def _step(self) -> None:
        if self._resting:
            # Somebody waits for this step's token, the first one: the load is looked at later.
            self._resting = False
            if self._binding is not None and not self.yielding:
                self._binding.bind()
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

    def _rest(self) -> None:
        if self._resting:
            return
        self._resting = True
        if self._binding is not None and not self.yielding:
            self._binding.loosen()
        self._load.end()
        self._judge()

    def _judge(self) -> None:
        if self._load.seconds < _LOOK_SECONDS:
            return
        self.decide(self._load.take())
        if self._binding is not None:
            self._binding.free_strangers()

    def decide(self, others: float) -> None:
        """Yield, or stop yielding, by how many cores others use."""
        missing = self._threads + others - self._cpus
        if missing > _BUSY_CORES and not self.yielding:
            self.yielding = True
            if self._binding is not None:
                self._binding.release()
            self._crowd.come()
        elif missing < _QUIET_CORES and self.yielding:
            self.yielding = False
            self._crowd.go()
            if self._binding is not None and not self._resting:
                self._binding.bind()
