"""What is asked of vLLM's LoRA manager, in the process that holds the model: this one, or each of several ranks.

Every function takes a worker of vLLM first, as `collective_rpc` calls them, and returns what can be pickled. None may
raise for an adapter's sake: vLLM leaves the answers of the other ranks unread then, and takes them for the next call's.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from tritonode.vllm.api import LoRARequest, worker_lora_manager

from .modules import ModelModules, look_at
from .weights import AdapterReader


@dataclass
class Counts:
    """Adapters read from disk since the start, and adapters whose weights are in host memory or in a slot."""

    loads: int = 0
    in_memory: int = 0


def watch(worker: Any, on_failure: Callable[[int, Exception], None] | None = None) -> ModelModules:
    """Count each reading of an adapter's weights from now on, those in the middle of a step included; and speed it.

    Args:
        worker: of vLLM.
        on_failure: called with an adapter's id in the middle of a step that finds it unreadable. The step goes on with
            weights of zero in its place, as it would end the engine otherwise: all that comes of them must be dropped.
    """
    manager = worker_lora_manager(worker)
    manager.tritonode_loads = 0
    manager.tritonode_adding = False
    load = manager._load_adapter

    def counted(request: LoRARequest) -> Any:
        manager.tritonode_loads += 1
        try:
            return load(request)
        except Exception as failure:
            if manager.tritonode_adding or on_failure is None:
                raise
            on_failure(request.lora_int_id, failure)
            return manager._adapter_manager.create_dummy_lora(request.lora_int_id, 1, manager.embedding_modules)

    manager._load_adapter = counted
    manager._lora_model_cls = AdapterReader().model_class()
    return look_at(manager)


def add(worker: Any, request: LoRARequest) -> str | None:
    """Load an adapter's weights; returns why they could not be."""
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
    return Counts(manager.tritonode_loads, len(manager._adapter_manager._registered_adapters))


def set_pinned(worker: Any, lora_id: int, pinned: bool) -> bool:
    """Keep an adapter's weights in host memory, or let them be evicted again; returns whether that was done.

    vLLM's own `pin_lora` also keeps the adapter's slot. Its scheduler does not know of that and fills a batch with as
    many other adapters as there are slots, which then do not fit; so only host memory is pinned here.
    """
    registered = worker_lora_manager(worker)._adapter_manager._registered_adapters
    if not pinned:
        registered._unpin(lora_id)
    elif lora_id in registered:
        registered.pin(lora_id)
    else:
        return False  # evicted by a step since it was loaded
    return True


def states(worker: Any) -> dict[int, str]:
    """Where the weights of each adapter are that is in memory: "slot" or "host"."""
    cache = worker_lora_manager(worker)._adapter_manager
    return {lora_id: "slot" if lora_id in cache._active_adapters else "host" for lora_id in cache._registered_adapters}


def state(worker: Any, lora_id: int) -> str:
    """Where the weights of one adapter are: "slot", "host" (memory) or "disk"."""
    cache = worker_lora_manager(worker)._adapter_manager
    if lora_id in cache._active_adapters:
        return "slot"
    return "host" if lora_id in cache._registered_adapters else "disk"
