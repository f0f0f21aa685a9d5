"""vLLM's adapters: their files, the layers that take them, and the manager that keeps them."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

from vllm.lora.lora_model import LoRAModel
from vllm.lora.lora_weights import LoRALayerWeights
from vllm.lora.request import LoRARequest
from vllm.lora.utils import parse_fine_tuned_lora_name as tensor_module
from vllm.model_executor.models import ModelRegistry
from vllm.utils import torch_utils
from vllm.v1.engine.core import EngineCore

from . import versions

__all__ = [
    "LoRALayerWeights",
    "LoRAModel",
    "LoRARequest",
    "LoraLayers",
    "in_memory",
    "in_slots",
    "layer_weights",
    "loading",
    "lora_layers",
    "pin",
    "pins_memory",
    "renames_weights",
    "replace_loading",
    "requests_on",
    "skips_lora_tensor",
    "tensor_module",
    "unpin",
    "worker_lora_manager",
    "zero_adapter",
]


def pins_memory() -> bool:
    """Whether vLLM keeps adapters in page-locked host memory (where there is a GPU to copy them to)."""
    return bool(torch_utils.PIN_MEMORY)


def worker_lora_manager(worker: Any) -> Any:
    """vLLM's `LRUCacheWorkerLoRAManager` of a worker."""
    return worker.model_runner.lora_manager


def replace_loading(manager: Any, load: Callable[[LoRARequest], Any], model_class: type[LoRAModel]) -> None:
    """Let a manager load adapters with `load`, and read their files with `model_class`."""
    manager._load_adapter = load
    manager._lora_model_cls = model_class


def loading(manager: Any) -> Callable[[LoRARequest], Any]:
    """How a manager loads an adapter."""
    return manager._load_adapter  # type: ignore[no-any-return]


def zero_adapter(manager: Any, lora_id: int) -> Any:
    """An adapter that changes nothing, in place of one that cannot be read."""
    return manager._adapter_manager.create_dummy_lora(lora_id, 1, manager.embedding_modules)


def in_memory(manager: Any) -> Any:
    """The adapters whose weights are in host memory or in a slot, by id."""
    return manager._adapter_manager._registered_adapters


def in_slots(manager: Any) -> Any:
    """The adapters whose weights are in a slot, by id."""
    return manager._adapter_manager._active_adapters


def pin(manager: Any, lora_id: int) -> None:
    """Keep an adapter in host memory."""
    in_memory(manager).pin(lora_id)


def unpin(manager: Any, lora_id: int) -> None:
    """Allow an adapter to be evicted from host memory."""
    in_memory(manager)._unpin(lora_id)


def requests_on(core: EngineCore, lora_id: int) -> list[str]:
    """The ids of the requests on an adapter that the engine core knows."""
    scheduler: Any = core.scheduler
    return [
        request.request_id
        for request in scheduler.requests.values()
        if request.lora_request is not None and request.lora_request.lora_int_id == lora_id
    ]


@dataclasses.dataclass(frozen=True)
class LoraLayers:
    """What a LoRA manager of vLLM has wrapped, and how it finds an adapter's tensors for it."""

    # Name in vLLM's model → its LoRA layer, and the names in an adapter of the parts of a packed layer.
    wrapped: dict[str, Any]
    packed: dict[str, list[str]]
    heads: set[str]
    mapper: Any
    skipped: list[str]
    pooling: bool


def lora_layers(manager: Any) -> LoraLayers:
    """Read a `WorkerLoRAManager`, as its `_load_adapter` does."""
    adapters = manager._adapter_manager
    mapper = getattr(adapters.model, "hf_to_vllm_mapper", None)
    return LoraLayers(
        wrapped=adapters.modules,
        packed=adapters.packed_modules,
        heads=adapters.supported_modules_to_save if versions.takes_heads() else set(),
        mapper=None if mapper is None else _renames(mapper),
        skipped=getattr(adapters.model, "lora_skip_prefixes", None) or [],
        pooling=adapters.is_pooling_model,
    )


def layer_weights(module: str, peft_helper: Any, peft_module: str) -> LoRALayerWeights:
    """The weights of one module, without tensors; `peft_module` is its name in the adapter's own files."""
    if versions.reads_patterns():
        return LoRALayerWeights.from_config(module, peft_helper, peft_module)
    return LoRALayerWeights.from_config(module, peft_helper)


def _renames(mapper: Any) -> Any:
    """What a model's `WeightsMapper` does to the names in an adapter: the parts of a packed layer keep theirs."""
    return mapper.get_rename_mapper() if versions.since(0, 29) else mapper.get_unstacked_mapper()


def skips_lora_tensor(name: str, prefixes: list[str]) -> bool:
    """Whether vLLM leaves a tensor of an adapter unread (a model's layers that inference does not need)."""
    return LoRAModel._should_skip_module(name, prefixes)


def renames_weights(architectures: list[str]) -> bool:
    """Whether vLLM's model has, or may have, other names for its modules than the checkpoint. Imports that model."""
    for architecture in architectures:
        registered = ModelRegistry.models.get(architecture)
        if registered is None:
            return True
        try:
            mapper = getattr(registered.load_model_cls(), "hf_to_vllm_mapper", None)
        except ImportError:
            return True  # vLLM says what is missing when it builds the model
        if mapper is None:
            continue
        renames = _renames(mapper)
        if any(getattr(renames, field.name) for field in dataclasses.fields(renames)):
            return True
    return not architectures
