"""vLLM's engine core, stepped on a thread of its own."""

from __future__ import annotations

import asyncio
import contextlib
import queue
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

from tritonode.vllm.engine import EngineCore, EngineCoreOutputs, EngineDeadError, Executor, VllmConfig

from .client import IDLE_STEP_SECONDS, InProcessAsyncClient, has_work

_STOP = object()


class ThreadClient(InProcessAsyncClient):
    """Builds and steps the core on a thread of its own."""

    def __init__(self, vllm_config: VllmConfig, executor_class: type[Executor], log_stats: bool) -> None:
        super().__init__()
        self._outputs: asyncio.Queue[EngineCoreOutputs | BaseException] = asyncio.Queue()
        self._inbox: queue.SimpleQueue[Any] = queue.SimpleQueue()
        # Keeps a task from being queued after the inbox was emptied for the last time.
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
        """A worker process ended (several ranks). An idle engine would not notice before its next step."""

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
            block = not has_work(core)
            if block and self.pace is not None:
                self.pace.rest()
            while block or not inbox.empty():
                task = inbox.get()
                if task is _STOP:
                    return
                task(core)
                block = False
            if self.pace is not None:
                self.pace.step()
            outputs, executed = core.step_fn()
            core.post_step(model_executed=executed)
            for output in (outputs or {}).values():
                self._publish(output)
            if not executed and core.scheduler.has_requests():
                # Release the GIL for the thread that this one waits for.
                time.sleep(IDLE_STEP_SECONDS)

    def _submit(self, task: Callable[[EngineCore], None]) -> None:
        with self._inbox_lock:
            if not self._closed:
                self._inbox.put(task)
                return
        raise self.dead_error()

    def _publish(self, output: EngineCoreOutputs | BaseException) -> None:
        # Raises once the loop is closed; nothing waits for outputs then.
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
