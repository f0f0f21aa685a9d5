"""vLLM's executor of several processes."""

from __future__ import annotations

from collections.abc import Callable
from multiprocessing.context import BaseContext, SpawnContext
from typing import Any

from vllm.utils.import_utils import resolve_obj_by_qualname
from vllm.v1.executor import multiproc_executor

from . import versions

__all__ = ["RANKS_LOGGER", "global_rank", "kill_ranks", "resolve_obj_by_qualname", "set_file_store", "start_ranks_with"]

# The logger that gets the reason why a rank exited.
RANKS_LOGGER = multiproc_executor.__name__


def global_rank(worker: Any) -> int:
    """The position of a worker among all ranks of its engine."""
    return int(worker.rank)


def kill_ranks(executor: Any) -> bool:
    """Kill the processes of the ranks and wait for their end, for an engine that has nothing left to do.

    vLLM closes a pipe, waits until they end by themselves, and sends signals after some seconds: an end of two idle
    ranks took 6 to 7.5 s.

    Returns False if the ranks are not processes of this machine; they are as they were then.
    """
    if type(executor) is not multiproc_executor.MultiprocExecutor:
        return False
    # vLLM's monitor takes their end for a failure otherwise.
    executor.shutting_down = True  # type: ignore[attr-defined]
    processes = [worker.proc for worker in executor.workers]
    for process in processes:
        process.kill()
    for process in processes:
        process.join(5)
    return not any(process.is_alive() for process in processes)


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
