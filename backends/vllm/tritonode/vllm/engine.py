"""vLLM's engine: its core, its clients, and what goes between them."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import vllm
from vllm.config import VllmConfig
from vllm.usage.usage_lib import UsageContext
from vllm.v1.engine import EngineCoreOutput, EngineCoreOutputs, EngineCoreRequest, FinishReason, PauseMode
from vllm.v1.engine.async_llm import AsyncLLM
from vllm.v1.engine.core import EngineCore
from vllm.v1.engine.core_client import AsyncMPClient, EngineCoreClient
from vllm.v1.engine.exceptions import EngineDeadError
from vllm.v1.executor import Executor
from vllm.v1.request import RequestStatus

VERSION: str = vllm.__version__

__all__ = [
    "VERSION",
    "AsyncLLM",
    "AsyncMPClient",
    "EngineCore",
    "EngineCoreClient",
    "EngineCoreOutput",
    "EngineCoreOutputs",
    "EngineCoreRequest",
    "EngineDeadError",
    "Executor",
    "FinishReason",
    "PauseMode",
    "RequestStatus",
    "UsageContext",
    "VllmConfig",
    "async_client",
    "before_results",
    "fail_request",
    "local_worker",
]


def fail_request(llm: Any, request_id: str, failure: Exception) -> None:
    """Have a request of an `AsyncLLM` end with an error, for whoever waits for its outputs."""
    state = llm.output_processor.request_states.get(request_id)
    if state is not None and state.queue is not None:
        state.queue.put(failure)


def before_results(core: EngineCore, look: Callable[[EngineCore], None]) -> None:
    """Have `look` called on the engine's thread after each step of the model, before its results are used."""
    scheduler: Any = core.scheduler
    update = scheduler.update_from_output

    def update_from_output(*args: Any, **kwargs: Any) -> Any:
        look(core)
        return update(*args, **kwargs)

    scheduler.update_from_output = update_from_output


def local_worker(core: EngineCore) -> Any:
    """The only worker of an engine core, where it is in this process; else None."""
    worker = getattr(getattr(core.model_executor, "driver_worker", None), "worker", None)
    return worker if hasattr(worker, "model_runner") else None


@contextlib.contextmanager
def async_client(make: Callable[[VllmConfig, type[Executor], bool], EngineCoreClient]) -> Iterator[None]:
    """Give `AsyncLLM` the client that `make` returns. It always asks this factory, which always starts a process."""
    original = EngineCoreClient.make_async_mp_client

    def factory(vllm_config: Any, executor_class: Any, log_stats: bool, *_: Any, **__: Any) -> EngineCoreClient:
        return make(vllm_config, executor_class, log_stats)

    EngineCoreClient.make_async_mp_client = staticmethod(factory)  # type: ignore[assignment]
    try:
        yield
    finally:
        EngineCoreClient.make_async_mp_client = original  # type: ignore[method-assign]
