"""Returns free memory of this process's C heap to the kernel.

Every step of the engine allocates and frees tensors of some MiB (the logits of a batch), in a different size for each
batch size. glibc soon allocates such blocks on its heap, and keeps freed ones that lie between blocks in use: 100 to
400 MiB after a burst of requests on the tests' tiny model. A fixed threshold (MALLOC_MMAP_THRESHOLD_) would unmap each
block at once, and cost a tenth to a fifth of the tokens per second there, because the kernel clears the pages of every
step.
"""

from __future__ import annotations

import asyncio
import ctypes
import os
from collections.abc import Callable

_PAGE = os.sysconf("SC_PAGE_SIZE")
# Trimming takes 20 to 30 ms and causes page faults afterwards, so it is not done for less than this.
_LITTLE = 64 << 20
_PAUSE_SECONDS = 1.0


def resident_bytes() -> int:
    """Return this process's resident memory in bytes; 0 without /proc."""
    try:
        with open("/proc/self/statm", encoding="ascii") as file:
            return int(file.read().split()[1]) * _PAGE
    except OSError:
        return 0


class Heap:
    """Trims the heap when the process has grown since the last time."""

    def __init__(self) -> None:
        self._trim = _malloc_trim()
        self._least = 0

    def give_back(self) -> bool:
        """Return free heap to the kernel if the process has grown by 64 MiB since the last time. Return whether it did.

        Blocks for 0.1 ms per free MiB, and blocks every thread that allocates in that time: call it when idle.
        """
        resident = resident_bytes()
        if self._trim is None or resident - self._least < _LITTLE:
            self._least = min(self._least, resident)
            return False
        self._trim(0)
        self._least = resident_bytes()
        return True

    async def give_back_when_idle(self, is_idle: Callable[[], bool]) -> None:
        """Call `give_back` whenever two checks in a row, a second apart, find the engine idle. Runs until cancelled."""
        was_idle = False
        while True:
            await asyncio.sleep(_PAUSE_SECONDS)
            idle = is_idle()
            if idle and was_idle:
                self.give_back()
            was_idle = idle


def _malloc_trim() -> Callable[[int], int] | None:
    """Return glibc's `malloc_trim`; None with another C library."""
    try:
        function = ctypes.CDLL(None).malloc_trim
    except (OSError, AttributeError):
        return None
    function.argtypes = [ctypes.c_size_t]
    function.restype = ctypes.c_int
    return function  # type: ignore[no-any-return]
