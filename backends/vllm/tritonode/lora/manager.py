"""Calls to vLLM's LoRA manager, in the process that holds the model: this one, or each of several ranks.

Every function takes a worker of vLLM first, as `collective_rpc` calls them, and returns what can be pickled. None may
raise because of an adapter: vLLM would leave the answers of the other ranks unread, and take them for those of the next
call.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from tritonode.ranks.failure import reason
from tritonode.vllm.lora import (
    LoRARequest,
    in_memory,
    in_slots,
    loading,
    pin,
    replace_loading,
    unpin,
    worker_lora_manager,
    zero_adapter,
)

from .modules import ModelModules, look_at
from .step_failures import RankFailures
from .weights import AdapterReader


@dataclass
class Counts:
    """Adapters read from disk since the start, and adapters whose weights are in host memory or in a slot."""

    loads: int = 0
    in_memory: int = 0


def watch(worker: Any, on_failure: Callable[[int, str], None]) -> ModelModules:
    """Count each time an adapter's weights are read, also during a step, and read them faster.

    Args:
        worker: of vLLM.
        on_failure: called with an adapter's id and a message when a step cannot read it. The step continues with
            weights of zero, because an error would end the engine. Its results for that adapter must be dropped.
    """
    manager = worker_lora_manager(worker)
    manager.tritonode_loads = 0
    manager.tritonode_adding = False
    load = loading(manager)

    def counted(request: LoRARequest) -> Any:
        manager.tritonode_loads += 1
        try:
            return load(request)
        except Exception as failure:
            if manager.tritonode_adding:
                raise
            name = request.lora_name.rpartition("@")[0] or request.lora_name
            on_failure(request.lora_int_id, f"adapter '{name}' could not be read again: {reason(failure)}")
            return zero_adapter(manager, request.lora_int_id)

    replace_loading(manager, counted, AdapterReader().model_class())
    return look_at(manager)


def watch_rank(worker: Any, failure_counts: str) -> ModelModules:
    """`watch` in one of several ranks. `failure_counts` is the path of the engine's `FailureCounts`."""
    failures = worker_lora_manager(worker).tritonode_failures = RankFailures(failure_counts, worker)
    return watch(worker, failures.add)


def step_failures(worker: Any) -> dict[int, str]:
    """In one of several ranks: return why steps since the last call could not read adapters, by adapter id."""
    return worker_lora_manager(worker).tritonode_failures.take()  # type: ignore[no-any-return]


def add(worker: Any, request: LoRARequest) -> str | None:
    """Load an adapter's weights. Returns the reason if that failed."""
    manager = worker_lora_manager(worker)
    manager.tritonode_adding = True
    try:
        manager.add_adapter(request)
    except Exception as failure:
        return str(failure) or type(failure).__name__
    finally:
        manager.tritonode_adding = False
    return None


def counts(worker: Any) -> Counts:
    manager = worker_lora_manager(worker)
    return Counts(manager.tritonode_loads, len(in_memory(manager)))


def set_pinned(worker: Any, lora_id: int, pinned: bool) -> bool:
    """Keep an adapter's weights in host memory, or let them be evicted again. Returns whether that was done.

    vLLM's own `pin_lora` also keeps the adapter's slot. vLLM's scheduler ignores that and fills a batch with as many
    other adapters as there are slots, which then do not fit. So only host memory is pinned here.
    """
    manager = worker_lora_manager(worker)
    if not pinned:
        unpin(manager, lora_id)
    elif lora_id in in_memory(manager):
        pin(manager, lora_id)
    else:
        return False  # a step has evicted it after it was loaded
    return True


def states(worker: Any) -> dict[int, str]:
    """Return where the weights of each adapter in memory are: "slot" or "host"."""
    manager = worker_lora_manager(worker)
    slots = in_slots(manager)
    return {lora_id: "slot" if lora_id in slots else "host" for lora_id in in_memory(manager)}


def state(worker: Any, lora_id: int) -> str:
    """Return where the weights of one adapter are: "slot", "host" (memory) or "disk"."""
    manager = worker_lora_manager(worker)
    if lora_id in in_slots(manager):
        return "slot"
    return "host" if lora_id in in_memory(manager) else "disk"
