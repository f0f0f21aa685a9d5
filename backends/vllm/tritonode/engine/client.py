"""vLLM's engine core inside this process, behind the client interface that vLLM's `AsyncLLM` uses.

vLLM offers an in-process core that is not asynchronous (`InprocClient`) and an asynchronous one in a process of its
own (`AsyncMPClient`). This is both, in two ways (:func:`make_client` chooses):

* :class:`LoopClient` steps the core on the asyncio loop. On a CPU a separate thread gains nothing: a step keeps all
  CPUs busy, and a second thread that needs the GIL slows both down.
* :class:`ThreadClient` steps it on a separate thread, so that the loop runs while a GPU or other ranks compute.

`EngineCore` is built *and* stepped on the same thread, because torch has an OpenMP team per calling thread: built on
another thread, it runs a third slower.
"""

from __future__ import annotations

import asyncio
import contextlib
import traceback
from abc import abstractmethod
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any

import torch

from tritonode.cpu.pace import Pace
from tritonode.ranks.failure import reason
from tritonode.vllm.engine import (
    AsyncMPClient,
    EngineCore,
    EngineCoreClient,
    EngineCoreOutput,
    EngineCoreOutputs,
    EngineCoreRequest,
    EngineDeadError,
    FinishReason,
    PauseMode,
    RequestStatus,
)

# The pause before the next step when the core has requests but could run none (a grammar is being compiled).
IDLE_STEP_SECONDS = 0.001


@dataclass
class _Resources:
    """The part of vLLM's `BackgroundResources` that `AsyncLLM` reads."""

    engine_dead: bool = False


class InProcessAsyncClient(EngineCoreClient):
    """An `EngineCoreClient` for `AsyncLLM` over an `EngineCore` of this process."""

    def __init__(self) -> None:
        self.resources = _Resources()
        self.engine_ranks_managed = [0]
        self._loop = asyncio.get_running_loop()
        self._core: EngineCore | None = None
        self._failure: BaseException | None = None
        # Called once when the engine has failed, on its thread. The requests in flight learn of it at the same time.
        self.on_death: Callable[[], None] = lambda: None
        # Called on the loop with the id of a request that the engine could not take in, and the reason.
        self.on_request_failure: Callable[[str, Exception], None] = lambda request_id, failure: None
        # For an engine whose threads are this process's, on a CPU.
        self.pace: Pace | None = None

    @abstractmethod
    def _submit(self, task: Callable[[EngineCore], None]) -> None:
        """Run a task between two steps, on the engine's thread."""

    @abstractmethod
    def _publish(self, output: EngineCoreOutputs) -> None:
        """Pass outputs to `get_output_async`."""

    def _fail(self, failure: BaseException) -> EngineDeadError:
        traceback.print_exception(failure)
        self._failure = failure
        self.resources.engine_dead = True
        return self.dead_error()

    def dead_error(self) -> EngineDeadError:
        """vLLM's error for an engine that is dead, with what it died of for a message."""
        dead, failure = EngineDeadError(), self._failure
        dead.args = ("the engine is shut down" if failure is None else f"the engine failed: {reason(failure)}",)
        dead.__cause__ = failure
        return dead

    # --- the interface AsyncLLM uses ---------------------------------------------------------------------------

    @abstractmethod
    async def get_output_async(self) -> EngineCoreOutputs:
        """The next step's outputs; raises EngineDeadError once the core has failed."""

    def _ensure_alive(self) -> None:
        if self.resources.engine_dead:
            raise self.dead_error()

    async def add_request_async(self, request: EngineCoreRequest) -> None:
        self._ensure_alive()

        def add(core: EngineCore) -> None:
            try:
                core.add_request(*core.preprocess_add_request(request))
            except Exception as failure:
                # A request that cannot be prepared fails alone.
                traceback.print_exc()
                self._loop.call_soon_threadsafe(self.on_request_failure, request.request_id, failure)

        self._submit(add)

    async def abort_requests_async(self, request_ids: list[str]) -> None:
        if request_ids and not self.resources.engine_dead:
            with contextlib.suppress(EngineDeadError):
                self._submit(lambda core: core.abort_requests(request_ids))

    async def pause_scheduler_async(self, mode: PauseMode = "abort", clear_cache: bool = True) -> None:
        """`EngineCore.pause_scheduler`, which tells nobody of the requests that it aborts."""
        await self.call(lambda core: self._aborting(core, mode, lambda: core.pause_scheduler(mode, clear_cache)))

    async def sleep_async(self, level: int = 1, mode: PauseMode = "abort") -> None:
        """`EngineCore.sleep`, which tells nobody of the requests that it aborts."""
        await self.call(lambda core: self._aborting(core, mode, lambda: core.sleep(level, mode)))

    def _aborting(self, core: EngineCore, mode: PauseMode, pause: Callable[[], Any]) -> Any:
        """Abort all requests if `mode` says so, end them for their callers, then pause."""
        if mode == "abort":
            aborted = core.scheduler.finish_requests(None, RequestStatus.FINISHED_ABORTED)
            if aborted:
                ends = [_aborted_output(request) for request in aborted]
                self._publish(EngineCoreOutputs(outputs=ends, finished_requests={end.request_id for end in ends}))
        return pause()

    async def call(self, function: Callable[[EngineCore], Any]) -> Any:
        """Run `function(core)` on the engine thread between two steps and return what it returns."""
        self._ensure_alive()
        future: asyncio.Future[Any] = self._loop.create_future()

        def settle(result: Any, failure: BaseException | None) -> None:
            if future.done():
                return
            if failure is None:
                future.set_result(result)
            else:
                future.set_exception(failure)

        def run(core: EngineCore) -> None:
            try:
                result = function(core)
            except Exception as failure:
                self._loop.call_soon_threadsafe(settle, None, failure)
                return
            if isinstance(result, Future):
                result.add_done_callback(
                    lambda done: self._loop.call_soon_threadsafe(
                        settle, None if done.exception() else done.result(), done.exception()
                    )
                )
            else:
                self._loop.call_soon_threadsafe(settle, result, None)

        run.reject = lambda failure: self._loop.call_soon_threadsafe(settle, None, failure)  # type: ignore[attr-defined]
        self._submit(run)
        return await future

    def peek(self, function: Callable[[EngineCore], Any], default: Any) -> Any:
        """`function(core)` from this thread, while the engine may be stepping: for reads that tolerate that."""
        return default if self._core is None or self.resources.engine_dead else function(self._core)

    def dp_engines_running(self) -> bool:
        return False

    def request_counts(self) -> tuple[int, int]:
        """(running, waiting) requests in vLLM's scheduler, now."""
        core = self._core
        if core is None or self.resources.engine_dead:
            return (0, 0)
        running, waiting = core.scheduler.get_request_counts()
        return int(running), int(waiting)

    @abstractmethod
    def shutdown(self, timeout: float | None = None) -> None:
        """Stop stepping and release the engine; waits for the running step (at most `timeout` seconds)."""


def _aborted_output(request: Any) -> EngineCoreOutput:
    # vLLM takes an output without a tensor for one of generation, whatever the request was.
    pooling_output = None if request.pooling_params is None else torch.empty(0)
    return EngineCoreOutput(
        request_id=request.request_id,
        new_token_ids=[],
        pooling_output=pooling_output,
        finish_reason=FinishReason.ABORT,
    )


def has_work(core: EngineCore) -> bool:
    return bool(core.scheduler.has_requests() or core.batch_queue)


def _forward(method: str) -> Any:
    async def forwarded(self: InProcessAsyncClient, *args: Any, **kwargs: Any) -> Any:
        return await self.call(lambda core: getattr(core, method)(*args, **kwargs))

    forwarded.__name__ = f"{method}_async"
    forwarded.__doc__ = f"`EngineCore.{method}` on the engine thread."
    return forwarded


# `AsyncMPClient` has a method `X_async` for every method `X` of the core; here one function makes them all.
for _name in dir(AsyncMPClient):
    _method = _name.removesuffix("_async")
    if _name.endswith("_async") and _name not in vars(InProcessAsyncClient) and hasattr(EngineCore, _method):
        setattr(InProcessAsyncClient, _name, _forward(_method))
