"""Reports adapters that a step could not read, if several ranks run the model.

A rank continues its step with weights of zero and counts the failure in memory that it shares with the engine. The
engine looks at the counts before it uses the results of a step. If one has changed, it asks the ranks for messages.
"""

from __future__ import annotations

import mmap
import os
import tempfile
from typing import Any

from tritonode.vllm.executor import global_rank

_COUNT_BYTES = 8


def _map(descriptor: int, length: int) -> mmap.mmap:
    try:
        return mmap.mmap(descriptor, length)
    finally:
        os.close(descriptor)


class FailureCounts:
    """The engine's view: a file with a count for each rank, until every rank has mapped it."""

    def __init__(self, ranks: int) -> None:
        descriptor, self.path = tempfile.mkstemp(
            prefix="tritonode-failures-", dir=os.environ.get("TRITONODE_PRIVATE_DIR")
        )
        os.truncate(descriptor, ranks * _COUNT_BYTES)
        self._memory = _map(descriptor, ranks * _COUNT_BYTES)
        self._seen = self._memory[:]

    def close(self) -> None:
        """Remove the file. Processes that have mapped it keep the memory."""
        os.unlink(self.path)

    def changed(self) -> bool:
        """Whether a rank has counted a failure since the last call."""
        now = self._memory[:]
        changed, self._seen = now != self._seen, now
        return changed


class RankFailures:
    """A rank's view: its own count, and the failures that the engine has not asked for yet."""

    def __init__(self, path: str, worker: Any) -> None:
        descriptor = os.open(path, os.O_RDWR)
        self._counts = memoryview(_map(descriptor, os.fstat(descriptor).st_size)).cast("Q")
        self._rank = global_rank(worker)
        self._untold: dict[int, str] = {}

    def add(self, lora_id: int, message: str) -> None:
        self._untold[lora_id] = message
        self._counts[self._rank] += 1

    def take(self) -> dict[int, str]:
        """Return the messages by the adapter's id. Each is returned once."""
        taken, self._untold = self._untold, {}
        return taken
