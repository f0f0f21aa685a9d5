"""Refuses requests that vLLM accepts and that then end the engine for all requests.

vLLM validates sampling parameters, but not that the numbers fit the integer types of torch and the scheduler. An
overflow is then raised in the middle of a step, where it cannot be attributed to a request. Found by the fuzzer in
test/chaos/sharing.test.ts.
"""

from __future__ import annotations

import functools
from typing import Any

from tritonode.vllm.engine import AsyncLLM, EngineCoreRequest
from tritonode.vllm.requests import VLLMValidationError

# The seeds that torch.Generator.manual_seed accepts; others overflow (torch/csrc/Generator.cpp).
_MIN_SEED, _MAX_SEED = -(2**63), 2**64 - 1
_MIN_INT32, _MAX_INT32 = -(2**31), 2**31 - 1
_INT32_PARAMS = ("n", "max_tokens", "min_tokens", "top_k", "logprobs", "prompt_logprobs")


def check_request(params: Any, priority: int) -> None:
    """Raise VLLMValidationError, which names the parameter, for a request that must not reach the engine."""
    if not _MIN_INT32 <= priority <= _MAX_INT32:
        raise VLLMValidationError(f"priority must fit 32 bits, got {priority}")
    seed = getattr(params, "seed", None)
    if seed is not None and not _MIN_SEED <= seed <= _MAX_SEED:
        raise VLLMValidationError(f"seed must be from {_MIN_SEED} to {_MAX_SEED}, got {seed}")
    for name in _INT32_PARAMS:
        value = getattr(params, name, None)
        if isinstance(value, int) and not _MIN_INT32 <= value <= _MAX_INT32:
            raise VLLMValidationError(f"{name} must fit 32 bits, got {value}")


def refuse_fatal_requests(llm: AsyncLLM) -> None:
    """Check every request before vLLM registers it. vLLM would not remove one that is refused later."""
    add_request = llm.add_request

    @functools.wraps(add_request)
    async def checked(request_id: str, prompt: Any, params: Any, *, priority: int = 0, **kwargs: Any) -> Any:
        if isinstance(prompt, EngineCoreRequest):
            check_request(prompt.params, prompt.priority)
        else:
            check_request(params, priority)
        return await add_request(request_id, prompt, params, priority=priority, **kwargs)

    llm.add_request = checked  # type: ignore[method-assign, assignment]
