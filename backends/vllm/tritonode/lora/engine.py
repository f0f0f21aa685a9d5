"""The engine's operations on adapters: load, remove, pin and locate their weights."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from typing import Any

from tritonode.engine.client import InProcessAsyncClient
from tritonode.errors import SettingsError
from tritonode.vllm.engine import EngineCore, before_results, fail_request, local_worker
from tritonode.vllm.lora import LoRARequest, requests_on
from tritonode.vllm.requests import VLLMValidationError as RequestError

from . import manager
from .manager import Counts
from .modules import ModelModules
from .step_failures import FailureCounts


class AdapterEngine:
    """Loads, removes, pins and locates adapters in vLLM. For the asyncio loop of the engine."""

    def __init__(self, llm: Any, *, slots: int, host_capacity: int) -> None:
        self._llm = llm
        # Adapters that one batch can hold, and adapters whose weights host memory holds at once.
        self.slots = slots
        self.host_capacity = host_capacity
        # With several ranks: the adapters that were added and not removed, and where `refresh` found them. All ranks do
        # the same in the same order, so the answer of the first is enough.
        self._added: set[int] = set()
        self._states: dict[int, str] = {}
        # Called with the id of an adapter that could not be read when a step needed it.
        self.on_failure: Callable[[int, Exception], None] = lambda lora_id, failure: None

    @property
    def _client(self) -> InProcessAsyncClient:
        return self._llm.engine_core  # type: ignore[no-any-return]

    @property
    def here(self) -> bool:
        """Whether the model is in this process. Otherwise it is in its ranks, which have to be asked."""
        return self._client.peek(lambda core: local_worker(core) is not None, False)

    async def _ask(self, function: Callable[..., Any], *args: Any) -> list[Any]:
        """Return the answers of all ranks."""
        return await self._client.call(lambda core: core.collective_rpc(function, args=args))  # type: ignore[no-any-return]

    async def watch_loads(self) -> ModelModules:
        """Count each reading of an adapter's weights from now on. Returns the modules that adapters can change."""
        self._loop = asyncio.get_running_loop()
        if self.here:
            modules, *others = await self._ask(manager.watch, self._failed_in_step)
        else:
            modules, *others = await self._watch_ranks()
        for other in others:
            modules.add(other)
        return modules  # type: ignore[no-any-return]

    async def _watch_ranks(self) -> list[ModelModules]:
        counts = FailureCounts(self._llm.vllm_config.parallel_config.world_size)
        with contextlib.closing(counts):
            modules = await self._ask(manager.watch_rank, counts.path)

        def look(core: EngineCore) -> None:
            if not counts.changed():
                return
            failures: dict[int, str] = {}
            for told in core.collective_rpc(manager.step_failures):
                failures |= told
            for lora_id, message in failures.items():
                self._failed_in_step(lora_id, message)

        await self._client.call(lambda core: before_results(core, look))
        return modules

    def _failed_in_step(self, lora_id: int, message: str) -> None:
        """Fail the requests on an adapter that a step could not read, and only those. Called on the engine's thread.

        They get the error before the outputs of the step, which do not replace it.
        """
        running = self._client.peek(lambda core: requests_on(core, lora_id), [])
        error = RequestError(message)

        def tell() -> None:
            for request_id in running:
                fail_request(self._llm, request_id, error)
            self._ending = self._loop.create_task(self._llm.abort(running, internal=True))
            self.on_failure(lora_id, error)

        if asyncio._get_running_loop() is self._loop:
            tell()
        else:
            self._loop.call_soon_threadsafe(tell)

    async def counts(self) -> Counts:
        return (await self._ask(manager.counts))[0]  # type: ignore[no-any-return]

    async def add(self, request: LoRARequest) -> None:
        """Load an adapter's weights. Raises SettingsError with vLLM's reason if that fails."""
        failures = [each for each in await self._ask(manager.add, request) if each is not None]
        if failures:
            raise SettingsError(failures[0])
        self._added.add(request.lora_int_id)

    async def remove(self, lora_id: int) -> None:
        self._added.discard(lora_id)
        await self._llm.remove_lora(lora_id)

    async def set_pinned(self, request: LoRARequest, pinned: bool) -> None:
        """Keep an adapter's weights in host memory, or let them be evicted again."""
        while not all(await self._ask(manager.set_pinned, request.lora_int_id, pinned)):
            await self.add(request)

    async def refresh(self, lora_id: int | None = None) -> None:
        """Update the data of `locate`, for one adapter or for all. Asks the ranks only if necessary."""
        if self.here:
            return
        if lora_id is not None and lora_id in self._added and len(self._added) <= self.host_capacity:
            # Nothing has been evicted yet.
            self._states.setdefault(lora_id, "host")
            return
        self._states = (await self._ask(manager.states))[0]

    def locate(self, lora_id: int) -> str:
        """Return where the weights are now: "slot", "host" (memory) or "disk"."""
        local = self._client.peek(local_worker, None)
        return self._states.get(lora_id, "disk") if local is None else manager.state(local, lora_id)
