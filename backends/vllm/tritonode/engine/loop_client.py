"""vLLM's engine core, stepped on the asyncio loop."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from tritonode.vllm.engine import EngineCore, EngineCoreOutputs, EngineCoreRequest, Executor, VllmConfig

from .client import IDLE_STEP_SECONDS, InProcessAsyncClient, has_work

# Requests that are sent together arrive one by one. After two have arrived, the step waits for more, for as long as
# each pause brings some: a prefill of sixteen prompts takes little longer than one of two.
_GATHER_SECONDS = 0.001
_GATHER_TIMES = 10


class LoopClient(InProcessAsyncClient):
    """Steps the core on the asyncio loop, whenever `AsyncLLM` asks for outputs. All other tasks run between steps."""

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
            # Other tasks run first: sending deltas, new requests, cancellations.
            await asyncio.sleep(0)
            self._ensure_alive()
            if self._outputs:
                return self._outputs.pop(0)
            core = self._core
            if core is None or not has_work(core):
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
                await asyncio.sleep(IDLE_STEP_SECONDS)

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
