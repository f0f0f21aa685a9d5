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
    "frontend_arg_types",
    "is_cpu",
    "lora_cache",
    "lora_manager",
    "make_arg_parser",
    "pins_memory",
    "sampling_param_types",
    "structured_output_types",
    "tensor_module",
    "validate_parsed_serve_args",
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


def lora_manager(core: EngineCore) -> Any:
    """vLLM's `LRUCacheWorkerLoRAManager` of an engine core whose only worker is in this process, else None."""
    worker = getattr(getattr(core.model_executor, "driver_worker", None), "worker", None)
    return getattr(getattr(worker, "model_runner", None), "lora_manager", None)


def lora_cache(core: EngineCore) -> Any:
    """Its `LRUCacheLoRAModelManager`: what is in host memory and in the slots."""
    manager = lora_manager(core)
    return None if manager is None else manager._adapter_manager


def is_cpu() -> bool:
    """Whether the installed vLLM computes on the CPU."""
    return bool(current_platform.is_cpu())


def pins_memory() -> bool:
    """Whether vLLM keeps adapters in page-locked host memory (where there is a GPU to copy them to)."""
    return bool(torch_utils.PIN_MEMORY)
