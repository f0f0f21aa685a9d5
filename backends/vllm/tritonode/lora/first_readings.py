"""Adapters whose weights are read for the first time while the model serves."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from .adapter import Adapter


class FirstReadings:
    """Reads each adapter once, however many requests wait for it. Runs on the asyncio loop of the engine.

    Args:
        read: reads an adapter's weights; raises SettingsError with the reason if that fails.
        drop: removes the weights of an adapter that was unloaded meanwhile.
    """

    def __init__(self, read: Callable[[Adapter], Awaitable[None]], drop: Callable[[Adapter], Awaitable[None]]) -> None:
        self._read = read
        self._drop = drop
        self._running: dict[int, asyncio.Task[None]] = {}

    async def of(self, adapter: Adapter) -> None:
        """Wait until the adapter's weights have been read. Cancelling it ends the wait, and not the reading.

        Raises what the reading raised. The next call tries again.
        """
        if adapter.tried:
            return
        lora_id = adapter.request.lora_int_id
        reading = self._running.get(lora_id)
        if reading is None:
            reading = asyncio.ensure_future(self._run(adapter))
            self._running[lora_id] = reading
            reading.add_done_callback(lambda task: self._ended(lora_id, task))
        await asyncio.shield(reading)

    async def _run(self, adapter: Adapter) -> None:
        await self._read(adapter)
        if adapter.is_unused:
            await self._drop(adapter)

    def _ended(self, lora_id: int, task: asyncio.Task[None]) -> None:
        del self._running[lora_id]
        if not task.cancelled():
            task.exception()  # Otherwise asyncio logs it if everybody who waited is gone.
