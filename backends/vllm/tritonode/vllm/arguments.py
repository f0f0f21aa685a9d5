"""vLLM's arguments, of the engine and of `vllm serve`."""

from __future__ import annotations

import dataclasses
import typing
from typing import Any

from vllm.engine.arg_utils import AsyncEngineArgs

__all__ = [
    "AsyncEngineArgs",
    "engine_arg_types",
    "frontend_arg_types",
]

# The arguments of `vllm serve` that do not fit a model served here.
_NO_FRONTEND_ARGS = frozenset({"lora_modules", "tokens_only"})


def engine_arg_types() -> dict[str, Any]:
    """Every engine argument's name with its type hint."""
    resolved: dict[str, Any] = {}
    for f in dataclasses.fields(AsyncEngineArgs):
        if f.name.startswith("_"):
            continue
        # vLLM writes `max_model_len: int = None`: the default shows that None is allowed.
        resolved[f.name] = typing.Optional[f.type] if f.default is None else f.type  # noqa: UP045
    return resolved


def frontend_arg_types() -> dict[str, Any]:
    """The arguments of `vllm serve` beside the engine's that concern its answers, not its network; with type hints."""
    from tritonode.vllm.frontend import BaseFrontendArgs

    return {f.name: f.type for f in dataclasses.fields(BaseFrontendArgs) if f.name not in _NO_FRONTEND_ARGS}
