"""All that depends on which vLLM is installed: names, signatures and import paths of vLLM 0.32.

Importing this module imports vLLM (seconds); only `initialize` may do so.
"""

from __future__ import annotations

import dataclasses
import typing
from typing import Any

import vllm
from vllm.config import VllmConfig
from vllm.engine.arg_utils import AsyncEngineArgs
from vllm.entrypoints.launchers.cli_args import BaseFrontendArgs, make_arg_parser, validate_parsed_serve_args
from vllm.exceptions import GracefulHTTPError, VLLMClientError, VLLMValidationError
from vllm.lora.lora_model import LoRAModel
from vllm.lora.lora_weights import LoRALayerWeights
from vllm.lora.request import LoRARequest
from vllm.lora.utils import parse_fine_tuned_lora_name as tensor_module
from vllm.model_executor.models import ModelRegistry
from vllm.outputs import (
    STREAM_FINISHED,
    CompletionOutput,
    EmbeddingRequestOutput,
    PoolingRequestOutput,
    RequestOutput,
)
from vllm.platforms import current_platform
from vllm.pooling_params import PoolingParams
from vllm.reasoning import ReasoningParserManager
from vllm.sampling_params import RequestOutputKind, SamplingParams, StructuredOutputsParams
from vllm.tool_parsers import ToolParserManager
from vllm.usage.usage_lib import UsageContext
from vllm.utils import torch_utils
from vllm.utils.argparse_utils import FlexibleArgumentParser
from vllm.v1.engine import EngineCoreOutput, EngineCoreOutputs, EngineCoreRequest, FinishReason, PauseMode
from vllm.v1.engine.async_llm import AsyncLLM
from vllm.v1.engine.core import EngineCore
from vllm.v1.engine.core_client import AsyncMPClient, EngineCoreClient
from vllm.v1.engine.exceptions import EngineDeadError
from vllm.v1.executor import Executor
from vllm.v1.metrics.loggers import StatLoggerBase
from vllm.v1.metrics.stats import IterationStats, SchedulerStats
from vllm.v1.request import RequestStatus

VERSION: str = vllm.__version__

# How vLLM refuses a request: its own errors for it, and the plain ones that its older checks raise.
REQUEST_ERRORS: tuple[type[Exception], ...] = (VLLMClientError, ValueError, TypeError)
# How it says that it takes no more requests now.
OVERLOAD_ERRORS: tuple[type[Exception], ...] = (GracefulHTTPError,)

__all__ = [
    "OVERLOAD_ERRORS",
    "REQUEST_ERRORS",
    "STREAM_FINISHED",
    "VERSION",
    "AsyncEngineArgs",
    "AsyncLLM",
    "AsyncMPClient",
    "CompletionOutput",
    "EmbeddingRequestOutput",
    "EngineCore",
    "EngineCoreClient",
    "EngineCoreOutput",
    "EngineCoreOutputs",
    "EngineCoreRequest",
    "EngineDeadError",
    "Executor",
    "FinishReason",
    "FlexibleArgumentParser",
    "IterationStats",
    "LoRALayerWeights",
    "LoRAModel",
    "LoRARequest",
    "PauseMode",
    "PoolingParams",
    "PoolingRequestOutput",
    "ReasoningParserManager",
    "RequestOutput",
    "RequestOutputKind",
    "RequestStatus",
    "SamplingParams",
    "SchedulerStats",
    "StatLoggerBase",
    "StructuredOutputsParams",
    "ToolParserManager",
    "UsageContext",
    "VLLMValidationError",
    "VllmConfig",
    "engine_arg_types",
    "fail_request",
    "frontend_arg_types",
    "is_cpu",
    "local_worker",
    "lora_layers",
    "make_arg_parser",
    "pins_memory",
    "renames_weights",
    "requests_on",
    "sampling_param_types",
    "skips_lora_tensor",
    "structured_output_types",
    "tensor_module",
    "validate_parsed_serve_args",
    "worker_lora_manager",
]

# Set by vLLM itself or by this backend, never by a request.
_INTERNAL_SAMPLING_PARAMS = frozenset({"output_kind", "skip_clone", "output_text_buffer_length"})


def engine_arg_types() -> dict[str, Any]:
    """Every engine argument's name with its type hint."""
    resolved: dict[str, Any] = {}
    for f in dataclasses.fields(AsyncEngineArgs):
        if f.name.startswith("_"):
            continue
        # vLLM writes `max_model_len: int = None`: the default tells that None is meant to be allowed.
        resolved[f.name] = typing.Optional[f.type] if f.default is None else f.type  # noqa: UP045
    return resolved


# The arguments of `vllm serve` that do not fit a model served here.
_NO_FRONTEND_ARGS = frozenset({"lora_modules", "tokens_only"})


def frontend_arg_types() -> dict[str, Any]:
    """The arguments of `vllm serve` beside the engine's that concern its answers, not its network; with type hints."""
    return {f.name: f.type for f in dataclasses.fields(BaseFrontendArgs) if f.name not in _NO_FRONTEND_ARGS}


def sampling_param_types() -> dict[str, Any]:
    """Every sampling parameter a request may set, with its type hint."""
    hints = typing.get_type_hints(SamplingParams)
    return {
        name: hint
        for name, hint in hints.items()
        if name in SamplingParams.__struct_fields__
        and not name.startswith("_")
        and name not in _INTERNAL_SAMPLING_PARAMS
    }


def structured_output_types() -> dict[str, Any]:
    """The fields of `structured_outputs`, with their type hints."""
    hints = typing.get_type_hints(StructuredOutputsParams)
    return {
        f.name: hints.get(f.name, Any)
        for f in dataclasses.fields(StructuredOutputsParams)
        if not f.name.startswith("_")
    }


def local_worker(core: EngineCore) -> Any:
    """The only worker of an engine core, where it is in this process; else None."""
    worker = getattr(getattr(core.model_executor, "driver_worker", None), "worker", None)
    return worker if hasattr(worker, "model_runner") else None


def worker_lora_manager(worker: Any) -> Any:
    """vLLM's `LRUCacheWorkerLoRAManager` of a worker."""
    return worker.model_runner.lora_manager


def requests_on(core: EngineCore, lora_id: int) -> list[str]:
    """The ids of the requests on an adapter that the engine core knows."""
    scheduler: Any = core.scheduler
    return [
        request.request_id
        for request in scheduler.requests.values()
        if request.lora_request is not None and request.lora_request.lora_int_id == lora_id
    ]


def fail_request(llm: Any, request_id: str, failure: Exception) -> None:
    """Have a request of an `AsyncLLM` end with an error, for whoever waits for its outputs."""
    state = llm.output_processor.request_states.get(request_id)
    if state is not None and state.queue is not None:
        state.queue.put(failure)


@dataclasses.dataclass(frozen=True)
class LoraLayers:
    """What a LoRA manager of vLLM has wrapped, and how it finds an adapter's tensors for it."""

    # Name in vLLM's model → its LoRA layer, and the names that an adapter has for the parts of a packed one.
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
        heads=adapters.supported_modules_to_save,
        mapper=None if mapper is None else mapper.get_rename_mapper(),
        skipped=getattr(adapters.model, "lora_skip_prefixes", None) or [],
        pooling=adapters.is_pooling_model,
    )


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
        renames = mapper.get_rename_mapper()
        if any(getattr(renames, field.name) for field in dataclasses.fields(renames)):
            return True
    return not architectures


def is_cpu() -> bool:
    """Whether the installed vLLM computes on the CPU."""
    return bool(current_platform.is_cpu())


def pins_memory() -> bool:
    """Whether vLLM keeps adapters in page-locked host memory (where there is a GPU to copy them to)."""
    return bool(torch_utils.PIN_MEMORY)
