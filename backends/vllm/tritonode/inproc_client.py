"""vLLM's engine core inside this process, behind the client interface that vLLM's `AsyncLLM` uses.

vLLM offers an in-process core that is not asynchronous (`InprocClient`) and an asynchronous one in a process of its
own (`AsyncMPClient`). This is both: `EngineCore` is built *and* stepped on one thread (torch keeps an OpenMP team per
calling thread: built elsewhere, it runs a third slower), and an asyncio loop feeds it and collects its outputs.
"""

from __future__ import annotations

import asyncio
import queue
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any

from .guard import check_request
from .vllm_api import (
    EngineCore,
    EngineCoreClient,
    EngineCoreOutput,
    EngineCoreOutputs,
    EngineCoreRequest,
    EngineDeadError,
    Executor,
    FinishReason,
    VllmConfig,
)

_STOP = object()


@dataclass
class _Resources:
    """The part of vLLM's `BackgroundResources` that `AsyncLLM` reads."""

    engine_dead: bool = False


class InProcessAsyncClient(EngineCoreClient):
    """An `EngineCoreClient` for `AsyncLLM` over an `EngineCore` on a thread of this process.

    Must be constructed on the asyncio loop that will use it. The constructor blocks until the core is built and
    raises what building it raised.
    """

    def __init__(self, vllm_config: VllmConfig, executor_class: type[Executor], log_stats: bool) -> None:
        self.resources = _Resources()
        self.engine_ranks_managed = [0]
        self._loop = asyncio.get_running_loop()
        self._outputs: asyncio.Queue[EngineCoreOutputs | BaseException] = asyncio.Queue()
        self._inbox: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._core: EngineCore | None = None
        self._failure: BaseException | None = None
        # Called on the engine's thread when it has failed and everybody has been told.
        self.on_death: Callable[[], None] = lambda: None
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

    # --- the engine thread -------------------------------------------------------------------------------------

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
        except BaseException as failure:
            self._die(failure)
        finally:
            core.shutdown()

    def _step_until_stopped(self, core: EngineCore) -> None:
        inbox = self._inbox
        while True:
            block = not (core.scheduler.has_requests() or core.batch_queue)
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
                # Work that waits for something outside (a grammar being compiled): let that thread have the GIL.
                time.sleep(0.001)

    def _publish(self, output: EngineCoreOutputs | BaseException) -> None:
        # Raises once the loop is closed: nobody listens then.
        try:
            self._loop.call_soon_threadsafe(self._outputs.put_nowait, output)
        except RuntimeError:
            pass

    def _die(self, failure: BaseException) -> None:
        import traceback

        traceback.print_exception(failure)
        self._failure = failure
        self.resources.engine_dead = True
        dead = EngineDeadError()
        dead.__cause__ = failure
        self._publish(dead)
        # What still waits in the inbox must not wait for ever.
        while not self._inbox.empty():
            task = self._inbox.get()
            reject = getattr(task, "reject", None)
            if reject is not None:
                reject(dead)
        self.on_death()

    # --- the interface AsyncLLM uses ---------------------------------------------------------------------------

    async def get_output_async(self) -> EngineCoreOutputs:
        """The next step's outputs; raises EngineDeadError once the core has failed."""
        output = await self._outputs.get()
        if isinstance(output, BaseException):
            # Every later call must fail too.
            self._outputs.put_nowait(output)
            raise output
        return output

    def _ensure_alive(self) -> None:
        if self.resources.engine_dead:
            raise EngineDeadError() from self._failure

    async def add_request_async(self, request: EngineCoreRequest) -> None:
        self._ensure_alive()
        check_request(request.sampling_params, request.priority)

        def add(core: EngineCore) -> None:
            try:
                core.add_request(*core.preprocess_add_request(request))
            except Exception:
                # A request that cannot be prepared fails alone.
                import traceback

                traceback.print_exc()
                failed = EngineCoreOutput(
                    request_id=request.request_id, new_token_ids=[], finish_reason=FinishReason.ERROR
                )
                self._publish(EngineCoreOutputs(outputs=[failed], finished_requests={request.request_id}))

        self._inbox.put(add)

    async def abort_requests_async(self, request_ids: list[str]) -> None:
        if request_ids and not self.resources.engine_dead:
            self._inbox.put(lambda core: core.abort_requests(request_ids))

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
        self._inbox.put(run)
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

    def shutdown(self, timeout: float | None = None) -> None:
        """Stop stepping and release the engine; waits for the running step (at most `timeout` seconds)."""
        if self._thread.is_alive():
            self._inbox.put(_STOP)
            if threading.current_thread() is not self._thread:
                self._thread.join(timeout if timeout else 30)


def _forward(method: str) -> Any:
    async def forwarded(self: InProcessAsyncClient, *args: Any, **kwargs: Any) -> Any:
        return await self.call(lambda core: getattr(core, method)(*args, **kwargs))

    forwarded.__name__ = f"{method}_async"
    forwarded.__doc__ = f"`EngineCore.{method}` on the engine thread."
    return forwarded


# `AsyncMPClient` spells out an `X_async` for every method `X` of the core; here one forwarder serves them all.
for _name in dir(EngineCoreClient):
    _method = _name.removesuffix("_async")
    if _name.endswith("_async") and _name not in vars(InProcessAsyncClient) and hasattr(EngineCore, _method):
        setattr(InProcessAsyncClient, _name, _forward(_method))
