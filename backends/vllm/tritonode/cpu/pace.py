"""How the engine's OpenMP threads wait for each other, depending on what else runs on the machine.

A step consists of about a hundred short parallel regions. On an otherwise idle machine it is fastest if each thread has
a CPU of its own and spins until the next region. (Without CPUs of their own, two threads can share one after a pause:
each spins while the other needs the CPU, and a step takes 15 ms instead of 3 until the kernel separates them.) When the
host computes too, the thread that the others wait for gets no CPU, because they occupy it or because it is bound to a
busy one: the engine nearly stops. So while others need the CPUs, threads may use any CPU and sleep instead of spinning.
"""

from __future__ import annotations

import contextlib
import os
import time

from .openmp import Binding, Gomp, SleepingTeam

# In cores. If others use this much, a thread of the team has to wait for a CPU. The host itself needs about a tenth of
# a core to read from a busy engine.
_BUSY_CORES = 0.35
_QUIET_CORES = 0.2
# The kernel counts in ticks of 10 ms; 25 ticks are enough to tell busy from quiet.
_LOOK_SECONDS = 0.25


class OtherLoad:
    """CPU time that other processes use on the CPUs that this process may use, counted between `begin` and `end`."""

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
        """Count up to now, then stop counting."""
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
        """The average number of cores that others used in the `seconds` counted so far. Resets the count."""
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
    """Makes the engine's threads yield while others need the CPUs. For the thread that steps the engine.

    Args:
        gomp: the OpenMP library.
        threads: how many the engine's team has.
        bind: whether each may get a CPU of its own.
        beside: cores that other threads of this process need while the engine computes.
    """

    def __init__(self, gomp: Gomp, threads: int, bind: bool = True, beside: float = 0.0) -> None:
        self._load = OtherLoad()
        self._threads, self._cpus, self._beside = threads, len(self._load.cpus), beside
        # Enough for one thread more than there are CPUs; libgomp does not count a team's first thread.
        self._sleeping = SleepingTeam(gomp, max(2, self._cpus - threads + 2))
        self._binding = Binding(gomp.team(threads)) if bind and threads <= self._cpus else None
        self._next = 0.0
        self._resting = True
        self.yielding = False

    def step(self) -> None:
        """Called before each step of the engine. Measures the load four times a second, which takes 0.1 ms."""
        # Without a free file descriptor or thread nothing is measured or changed; the engine runs on.
        with contextlib.suppress(OSError, RuntimeError):
            self._step()

    def rest(self) -> None:
        """Called when the engine has nothing to do. The load of others does not matter then."""
        with contextlib.suppress(OSError, RuntimeError):
            self._rest()

    def _step(self) -> None:
        if self._resting:
            # A caller waits for the first token of this step, so the load is measured later.
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
            self._binding.release_first()
        self._load.end()
        self._judge()

    def _judge(self) -> None:
        if self._load.seconds < _LOOK_SECONDS:
            return
        self.decide(self._load.take())
        if self._binding is not None:
            self._binding.release_new_threads()

    def decide(self, others: float) -> None:
        """Yield, or stop yielding, by how many cores other processes use."""
        missing = self._threads + self._beside + others - self._cpus
        if missing > _BUSY_CORES and not self.yielding:
            self.yielding = True
            if self._binding is not None:
                self._binding.release()
            self._sleeping.start()
        elif missing < _QUIET_CORES and self.yielding:
            self.yielding = False
            self._sleeping.stop()
            if self._binding is not None and not self._resting:
                self._binding.bind()
