"""The process of a rank. Like the engine, it skips those of vLLM's imports that an engine on the CPU does not use.

`multiprocessing` starts a new Python and unpickles the process object there. That object refers to vLLM's worker, so
unpickling it imports vLLM. Here it is pickled twice over: what is unpickled first prepares the imports.
"""

from __future__ import annotations

import gc
import pickle
from multiprocessing.context import SpawnContext, SpawnProcess
from multiprocessing.reduction import ForkingPickler
from typing import Any

from tritonode.vllm import lazy_packages


def _load(state: bytes) -> SpawnProcess:
    gc.disable()
    lazy_packages.install_on_cpu()
    from tritonode.vllm.early_imports import import_early
    from tritonode.vllm.platform import compile_eagerly, is_cpu

    compile_eagerly()
    if is_cpu():
        import_early()
    process = SpawnProcess.__new__(SpawnProcess)
    vars(process).update(pickle.loads(state))
    # Modules that are already imported stay imported.
    gc.freeze()
    gc.enable()
    return process


class RankProcess(SpawnProcess):
    """A process of `multiprocessing`'s spawn method."""

    def __reduce__(self) -> tuple[Any, ...]:
        return _load, (bytes(ForkingPickler.dumps(vars(self))),)


class RankContext(SpawnContext):
    """`multiprocessing`'s spawn method with these processes."""

    Process = RankProcess
