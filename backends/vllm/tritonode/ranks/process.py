"""The process of a rank. Like the engine, it skips those of vLLM's imports that an engine on the CPU does not use.

Where a server of ranks runs (`server`), it is forked into the rank. Else `multiprocessing` starts a new Python and
unpickles the process object there. That object refers to vLLM's worker, so unpickling it imports vLLM. Here it is
pickled twice over: what is unpickled first prepares the imports.
"""

from __future__ import annotations

import gc
import pickle
from multiprocessing.context import SpawnContext, SpawnProcess
from multiprocessing.reduction import ForkingPickler
from typing import Any

from .server import ForkedPopen, RankServer, import_what_ranks_import


def _load(state: bytes) -> SpawnProcess:
    gc.disable()
    import_what_ranks_import()
    process = SpawnProcess.__new__(SpawnProcess)
    vars(process).update(pickle.loads(state))
    # Modules that are already imported stay imported.
    gc.freeze()
    gc.enable()
    return process


class RankProcess(SpawnProcess):
    """A process of `multiprocessing`'s spawn method, forked by the server of ranks if there is one."""

    def __reduce__(self) -> tuple[Any, ...]:
        return _load, (bytes(ForkingPickler.dumps(vars(self))),)

    @staticmethod
    def _Popen(process_obj: Any) -> Any:
        server = RankServer.running
        if server is not None:
            try:
                return ForkedPopen(process_obj)
            except (OSError, EOFError):
                server.close()
        return SpawnProcess._Popen(process_obj)  # type: ignore[attr-defined]


class RankContext(SpawnContext):
    """`multiprocessing`'s spawn method with these processes."""

    Process = RankProcess
