"""What the adapters need of the engine: put weights in, take them out, keep them, and say where they are."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tritonode.engine.client import InProcessAsyncClient
from tritonode.errors import UnsupportedError
from tritonode.vllm.api import LoRARequest, lora_cache, lora_manager

from .weights import AdapterReader


class AdapterEngine:
    """vLLM's LoRA calls, and its least-recently-used caches of them. For the asyncio loop of the engine."""

    def __init__(self, llm: Any, *, slots: int, host_capacity: int) -> None:
        self._llm = llm
        # Adapters that one batch can hold, and adapters whose weights host memory holds at once.
        self.slots = slots
        self.host_capacity = host_capacity
        # Adapters read from disk since the start; what of them is not in host memory now was evicted.
        self.loads = 0

    async def watch_loads(self) -> None:
        """Count each reading of an adapter's weights from now on, those in the middle of a step included; and speed it.

        Where several processes run the model, each reads its part as vLLM does.
        """

        def wrap(core: Any) -> None:
            manager = lora_manager(core)
            if manager is None:
                return
            load = manager._load_adapter

            def counted(request: LoRARequest) -> Any:
                self.loads += 1
                return load(request)

            manager._load_adapter = counted
            manager._lora_model_cls = AdapterReader().model_class()

        await self._client.call(wrap)

    def in_memory(self) -> int:
        """Adapters whose weights are in host memory or in a slot."""
        return self._client.peek(lambda core: len(getattr(lora_cache(core), "_registered_adapters", ())), 0)

    @property
    def _client(self) -> InProcessAsyncClient:
        return self._llm.engine_core  # type: ignore[no-any-return]

    async def add(self, request: LoRARequest) -> None:
        """Load an adapter's weights; raises what vLLM raises."""
        await self._llm.add_lora(request)

    async def remove(self, lora_id: int) -> None:
        await self._llm.remove_lora(lora_id)

    async def set_pinned(self, lora_id: int, pinned: bool) -> None:
        """Keep an adapter's weights in host memory, or let them be evicted again.

        vLLM's own `pin_lora` also keeps the adapter's slot. Its scheduler does not know of that and fills a batch with
        as many other adapters as there are slots, which then do not fit; so only host memory is pinned here.
        """

        def pin(core: Any) -> None:
            cache = lora_cache(core)
            if cache is None:
                raise UnsupportedError("adapters can be pinned only where one process runs the model")
            registered = cache._registered_adapters
            if pinned:
                registered.pin(lora_id)
            else:
                registered._unpin(lora_id)

        await self._client.call(pin)

    def locate(self, lora_id: int) -> str:
        """Where the weights are now: "slot", "host" (memory) or "disk"."""
        return self._client.peek(_located(lora_id), "host")


def _located(lora_id: int) -> Callable[[Any], str]:
    def look(core: Any) -> str:
        cache = lora_cache(core)
        if cache is None:
            return "host"
        if lora_id in cache._active_adapters:
            return "slot"
        return "host" if lora_id in cache._registered_adapters else "disk"

    return look
