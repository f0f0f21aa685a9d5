"""vLLM's requests: their parameters, their outputs, and the errors that refuse them."""

from __future__ import annotations

import dataclasses
import typing
from typing import Any

from vllm import exceptions
from vllm.exceptions import VLLMNotFoundError, VLLMValidationError
from vllm.outputs import STREAM_FINISHED, CompletionOutput, EmbeddingRequestOutput, PoolingRequestOutput, RequestOutput
from vllm.pooling_params import PoolingParams
from vllm.sampling_params import RequestOutputKind, SamplingParams, StructuredOutputsParams

from . import versions

# How vLLM says that it accepts no more requests now. Before 0.29 it accepts all of them.
OVERLOAD_ERRORS: tuple[type[Exception], ...] = (exceptions.GracefulHTTPError,) if versions.since(0, 29) else ()
# How vLLM refuses a request: its own error classes, and the built-in ones that its older checks raise.
REQUEST_ERRORS: tuple[type[Exception], ...] = (
    exceptions.VLLMClientError if versions.since(0, 27) else VLLMNotFoundError,
    ValueError,
    TypeError,
)

__all__ = [
    "OVERLOAD_ERRORS",
    "REQUEST_ERRORS",
    "STREAM_FINISHED",
    "CompletionOutput",
    "EmbeddingRequestOutput",
    "PoolingParams",
    "PoolingRequestOutput",
    "RequestOutput",
    "RequestOutputKind",
    "SamplingParams",
    "StructuredOutputsParams",
    "VLLMValidationError",
    "pooling_error",
    "sampling_param_types",
    "structured_output_types",
]

# Set by vLLM itself or by this backend, never by a request.
_INTERNAL_SAMPLING_PARAMS = frozenset({"output_kind", "skip_clone", "output_text_buffer_length"})


def pooling_error(output: PoolingRequestOutput[Any]) -> str | None:
    """Why vLLM ended the request, if it did. Before 0.32 it raises instead of saying so in the output."""
    if not versions.since(0, 32) or output.error is None:
        return None
    return output.error.message


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
