"""vLLM's engine core inside this process, behind the client interface that vLLM's `AsyncLLM` uses.

vLLM offers an in-process core that is not asynchronous (`InprocClient`) and an asynchronous one in a process of its
own (`AsyncMPClient`). This is both, in two ways (:func:`make_client` chooses):

* :class:`LoopClient` steps the core on the asyncio loop itself. On a CPU nothing is won by doing it elsewhere: while
  the core computes, all cores compute, and a second thread that wants the GIL costs both of them.
* :class:`ThreadClient` steps it on a thread of its own: while a GPU computes, or other ranks do, the loop goes on.

`EngineCore` is built *and* stepped on one thread (torch keeps an OpenMP team per calling thread: built elsewhere, it
runs a third slower).
"""

from __future__ import annotations

import asyncio
import contextlib
import queue
import threading
import time
import traceback
from abc import abstractmethod
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any

import torch

from tritonode.cpu.pace import Pace
from tritonode.vllm.api import (
    AsyncMPClient,
    EngineCore,
    EngineCoreClient,
    EngineCoreOutput,
    EngineCoreOutputs,
    EngineCoreRequest,
    EngineDeadError,
    Executor,
    FinishReason,
    PauseMode,
    RequestStatus,
    VllmConfig,
    is_cpu,
)

from .failure import reason

_STOP = object()
# How long a core that has requests and could run none waits before it tries again (a grammar is being compiled).
_IDLE_STEP_SECONDS = 0.001
# Requests that come together arrive one by one. Once two have come, the step waits for more, as long as each pause
# brings some: a prefill of sixteen takes little longer than one of two.
_GATHER_SECONDS = 0.001
_GATHER_TIMES = 10


@dataclass
class _Resources:
    """The part of vLLM's `BackgroundResources` that `AsyncLLM` reads."""

    engine_dead: bool = False


def make_client(vllm_config: VllmConfig, executor_class: type[Executor], log_stats: bool) -> InProcessAsyncClient:
    """The client that fits the device; on the asyncio loop that will use it. Blocks until the core is built."""
    on_loop = is_cpu() and vllm_config.parallel_config.world_size == 1
    return (LoopClient if on_loop else ThreadClient)(vllm_config, executor_class, log_stats)


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
        # For a core that is stepped on the loop.
        self.pace: Pace | None = None

    @abstractmethod
    def _submit(self, task: Callable[[EngineCore], None]) -> None:
        """Run a task between two steps, on the engine's thread."""

    @abstractmethod
    def _publish(self, output: EngineCoreOutputs) -> None:
        """Hand outputs to `get_output_async`."""

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


class LoopClient(InProcessAsyncClient):
    """Steps the core on the asyncio loop, whenever `AsyncLLM` asks for outputs: everything is between two steps."""

    def __init__(self, vllm_config: VllmConfig, executor_class: type[Executor], log_stats: bool) -> None:
        super().__init__()
        self._outputs: list[EngineCoreOutputs] = []
        self._arrived = 0
        self._work = asyncio.Event()
        self._core = EngineCore(vllm_config, executor_class, log_stats)

    def _submit(self, task: Callable[[EngineCore], None]) -> None:
        if self._core is None:
            raise self.dead_error()
        task(self._core)
        self._work.set()

    def _publish(self, output: EngineCoreOutputs) -> None:
        self._outputs.append(output)
        self._work.set()

    async def get_output_async(self) -> EngineCoreOutputs:
        while True:
            # What is ready comes first: pieces to be sent, new requests, cancellations.
            await asyncio.sleep(0)
            self._ensure_alive()
            if self._outputs:
                return self._outputs.pop(0)
            core = self._core
            if core is None or not _has_work(core):
                if self.pace is not None:
                    self.pace.rest()
                self._work.clear()
                await self._work.wait()
                continue
            if self._arrived > 1:
                await self._gather()
            self._arrived = 0
            if self.pace is not None:
                self.pace.step()
            try:
                outputs, executed = core.step_fn()
                core.post_step(model_executed=executed)
            except Exception as failure:
                dead = self._fail(failure)
                self._loop.call_soon(self.on_death)
                raise dead from failure
            self._outputs.extend((outputs or {}).values())
            if not executed and core.scheduler.has_requests():
                await asyncio.sleep(_IDLE_STEP_SECONDS)

    async def add_request_async(self, request: EngineCoreRequest) -> None:
        await super().add_request_async(request)
        self._arrived += 1

    async def _gather(self) -> None:
        for _ in range(_GATHER_TIMES):
            before = self._arrived
            await asyncio.sleep(_GATHER_SECONDS)
            if self._arrived == before:
                return

    def shutdown(self, timeout: float | None = None) -> None:
        core, self._core = self._core, None
        if core is not None:
            core.shutdown()


class ThreadClient(InProcessAsyncClient):
    """Builds and steps the core on a thread of its own."""

    def __init__(self, vllm_config: VllmConfig, executor_class: type[Executor], log_stats: bool) -> None:
        super().__init__()
        self._outputs: asyncio.Queue[EngineCoreOutputs | BaseException] = asyncio.Queue()
        self._inbox: queue.SimpleQueue[Any] = queue.SimpleQueue()
        # So that no task is queued after the last one was taken.
        self._inbox_lock = threading.Lock()
        self._closed = False
        built: Future[None] = Future()
        self._thread = threading.Thread(
            target=self._run,
            args=(vllm_config, executor_class, log_stats, built),
            name="vllm-engine-core",
            daemon=True,
        )
        self._thread.start()
        built.result()

    def _executor_failed(self) -> None:
        """A worker process is gone (several ranks): an idle engine would not notice before its next step."""

        def fail(core: EngineCore) -> None:
            raise RuntimeError("a worker process of the engine ended")

        self._inbox.put(fail)

    def _run(self, vllm_config: Any, executor_class: Any, log_stats: bool, built: Future[None]) -> None:
        try:
            core = EngineCore(vllm_config, executor_class, log_stats, executor_fail_callback=self._executor_failed)
        except BaseException as failure:
            built.set_exception(failure)
            return
        self._core = core
        built.set_result(None)
        del built
        try:
            self._step_until_stopped(core)
            self._close(self.dead_error())
        except BaseException as failure:
            self._die(failure)
        finally:
            core.shutdown()

    def _step_until_stopped(self, core: EngineCore) -> None:
        inbox = self._inbox
        while True:
            block = not _has_work(core)
            while block or not inbox.empty():
                task = inbox.get()
                if task is _STOP:
                    return
                task(core)
                block = False
            outputs, executed = core.step_fn()
            core.post_step(model_executed=executed)
            for output in (outputs or {}).values():
                self._publish(output)
            if not executed and core.scheduler.has_requests():
                # Let the thread that is waited for have the GIL.
                time.sleep(_IDLE_STEP_SECONDS)

    def _submit(self, task: Callable[[EngineCore], None]) -> None:
        with self._inbox_lock:
            if not self._closed:
                self._inbox.put(task)
                return
        raise self.dead_error()

    def _publish(self, output: EngineCoreOutputs | BaseException) -> None:
        # Raises once the loop is closed: nobody listens then.
        try:
            self._loop.call_soon_threadsafe(self._outputs.put_nowait, output)
        except RuntimeError:
            pass

    def _die(self, failure: BaseException) -> None:
        dead = self._fail(failure)
        self._publish(dead)
        self._close(dead)
        self.on_death()

    def _close(self, reason: EngineDeadError) -> None:
        """Take no more tasks, and fail the calls that still wait in the inbox."""
        with self._inbox_lock:
            self._closed = True
        while not self._inbox.empty():
            reject = getattr(self._inbox.get(), "reject", None)
            if reject is not None:
                with contextlib.suppress(RuntimeError):  # the loop is closed
                    reject(reason)

    async def get_output_async(self) -> EngineCoreOutputs:
        output = await self._outputs.get()
        if isinstance(output, BaseException):
            # Every later call must fail too.
            self._outputs.put_nowait(output)
            raise output
        return output

    def shutdown(self, timeout: float | None = None) -> None:
        if self._thread.is_alive():
            self._inbox.put(_STOP)
            if threading.current_thread() is not self._thread:
                self._thread.join(timeout if timeout else 30)


def _aborted_output(request: Any) -> EngineCoreOutput:
    # vLLM takes an output without a tensor for one of generation, whatever the request was.
    pooling_output = None if request.pooling_params is None else torch.empty(0)
    return EngineCoreOutput(
        request_id=request.request_id,
        new_token_ids=[],
        pooling_output=pooling_output,
        finish_reason=FinishReason.ABORT,
    )


def _has_work(core: EngineCore) -> bool:
    return bool(core.scheduler.has_requests() or core.batch_queue)


def _forward(method: str) -> Any:
    async def forwarded(self: InProcessAsyncClient, *args: Any, **kwargs: Any) -> Any:
        return await self.call(lambda core: getattr(core, method)(*args, **kwargs))

    forwarded.__name__ = f"{method}_async"
    forwarded.__doc__ = f"`EngineCore.{method}` on the engine thread."
    return forwarded


# `AsyncMPClient` spells out an `X_async` for every method `X` of the core; here one forwarder serves them all.
for _name in dir(AsyncMPClient):
    _method = _name.removesuffix("_async")
    if _name.endswith("_async") and _name not in vars(InProcessAsyncClient) and hasattr(EngineCore, _method):
        setattr(InProcessAsyncClient, _name, _forward(_method))
