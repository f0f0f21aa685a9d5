"""vLLM's executor of several processes."""

from __future__ import annotations

from collections.abc import Callable
from multiprocessing.context import BaseContext, SpawnContext
from typing import Any

from vllm.utils.import_utils import resolve_obj_by_qualname
from vllm.v1.executor import multiproc_executor

from . import versions

__all__ = ["RANKS_LOGGER", "global_rank", "resolve_obj_by_qualname", "set_file_store", "start_ranks_with"]

# The logger that gets the reason why a rank exited.
RANKS_LOGGER = multiproc_executor.__name__


def global_rank(worker: Any) -> int:
    """The position of a worker among all ranks of its engine."""
    return int(worker.rank)


def set_file_store(address: Callable[[], str]) -> None:
    """Let ranks meet at the `file://` URL that `address` returns. vLLM's CPU kernels name their shared memory by it.

    Before 0.28 the ranks meet at a port of the loopback interface, and the kernels' shared memory is named after it.
    """
    if not versions.since(0, 28):
        return
    multiproc_executor.get_file_store_init_method = address


def start_ranks_with(context: SpawnContext) -> None:
    """Let ranks be processes of this context, where vLLM spawns them; forked ones stay as they are."""
    usual = multiproc_executor.get_mp_context

    def get_mp_context() -> BaseContext:
        chosen: BaseContext = usual()
        return context if chosen.get_start_method() == "spawn" else chosen

    multiproc_executor.get_mp_context = get_mp_context
