"""The `sampling_parameters` of a request: a JSON object of vLLM's own sampling parameters plus `lora_name`."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from typing import Any

from tritonode.coerce import CoercionError, allows_none, coerce
from tritonode.errors import InvalidRequestError, did_you_mean
from tritonode.vllm.requests import (
    REQUEST_ERRORS,
    RequestOutputKind,
    SamplingParams,
    StructuredOutputsParams,
    sampling_param_types,
    structured_output_types,
)

_TYPES = sampling_param_types()
_STRUCTURED_TYPES = structured_output_types()
# In addition to vLLM's own names: the adapter (its folder, to load it first, and its scale), and vLLM's scheduling
# priority, which is an argument of `generate` and not a sampling parameter.
_REQUEST_KEYS: dict[str, Any] = {
    "lora_name": str | None,
    "lora_path": str | None,
    "lora_scale": float | None,
    "priority": int,
}


@dataclass
class RequestParameters:
    """Sampling parameters, and the other settings of a request."""

    sampling: SamplingParams
    lora_name: str | None
    lora_path: str | None
    lora_scale: float | None
    priority: int


def parse_object(text: str, what: str) -> dict[str, Any]:
    """Read a JSON object; raises InvalidRequestError that names `what`."""
    try:
        value = json.loads(text)
    except (json.JSONDecodeError, RecursionError) as failure:
        raise InvalidRequestError(f"{what} is not valid JSON: {failure}") from failure
    if not isinstance(value, dict):
        raise InvalidRequestError(f"{what} must be a JSON object, not {type(value).__name__}")
    return value


def parse_sampling_parameters(text: str, *, stream: bool) -> RequestParameters:
    """Typed parameters of one request.

    Strings are read as the type that vLLM declares ("0.1", "false"). `null` means vLLM's default.

    Raises InvalidRequestError naming the parameter and the reason.
    """
    values = parse_object(text, "sampling_parameters") if text else {}
    typed: dict[str, Any] = {}
    own: dict[str, Any] = {}
    for key, value in values.items():
        hint = _TYPES.get(key, _REQUEST_KEYS.get(key))
        if hint is None:
            near = did_you_mean(key, [*_TYPES, *_REQUEST_KEYS])
            raise InvalidRequestError(f"unknown sampling parameter '{key}'{near}")
        if value is None and not allows_none(hint):
            continue
        (own if key in _REQUEST_KEYS else typed)[key] = _typed(key, value, hint)
    # Streaming needs deltas; without streaming only the final output is needed.
    typed["output_kind"] = RequestOutputKind.DELTA if stream else RequestOutputKind.FINAL_ONLY
    try:
        sampling = SamplingParams(**typed)
    except REQUEST_ERRORS as failure:
        raise InvalidRequestError(str(failure)) from failure
    return RequestParameters(
        sampling,
        own.get("lora_name"),
        own.get("lora_path"),
        own.get("lora_scale"),
        own.get("priority", 0),
    )


def _typed(key: str, value: Any, hint: Any) -> Any:
    try:
        if key == "structured_outputs" and value is not None:
            return _structured_outputs(value)
        if key == "logit_bias" and isinstance(value, dict):
            return _biases(value)
        if key == "repetition_detection" and isinstance(value, dict):
            return _dataclass_from(value, hint)
        return coerce(value, hint)
    except (CoercionError, TypeError, ValueError) as failure:
        raise InvalidRequestError(f"sampling parameter '{key}': {failure}") from failure


def _biases(value: dict[str, Any]) -> dict[int, float]:
    for token in value:
        if not str(token).strip().lstrip("-").isdecimal():
            raise CoercionError(f"the keys must be token ids, got {token!r}")
    return {int(token): coerce(bias, float) for token, bias in value.items()}


def _structured_outputs(value: Any) -> StructuredOutputsParams:
    """vLLM's structured outputs, as an object or (as upstream's backend wants it) as a JSON string of one."""
    if isinstance(value, str):
        value = parse_object(value, "sampling parameter 'structured_outputs'")
    if not isinstance(value, dict):
        raise CoercionError(f"expected an object, got {type(value).__name__}")
    for field in value:
        if field not in _STRUCTURED_TYPES:
            raise CoercionError(f"unknown field '{field}'{did_you_mean(field, _STRUCTURED_TYPES)}")
    return StructuredOutputsParams(**{k: coerce(v, _STRUCTURED_TYPES[k]) for k, v in value.items()})


def _dataclass_from(value: dict[str, Any], hint: Any) -> Any:
    import typing

    for member in typing.get_args(hint) or (hint,):
        if dataclasses.is_dataclass(member) and isinstance(member, type):
            return member(**value)
    raise CoercionError("expected an object")
