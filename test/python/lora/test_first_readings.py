"""Adapters whose weights are read for the first time while the model serves."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

pytest.importorskip("vllm")

from tritonode.errors import SettingsError
from tritonode.lora.adapter import Adapter
from tritonode.lora.files import inspect_adapter
from tritonode.lora.first_readings import FirstReadings
from tritonode.vllm.lora import LoRARequest


class Disk:
    """Reads adapters when it is told to."""

    def __init__(self) -> None:
        self.read: list[int] = []
        self.dropped: list[int] = []
        self.free = asyncio.Event()
        self.failure: Exception | None = None
        self.readings = FirstReadings(self._read, self._drop)

    async def _read(self, adapter: Adapter) -> None:
        self.read.append(adapter.request.lora_int_id)
        await self.free.wait()
        if self.failure is not None:
            raise self.failure
        adapter.tried = True

    async def _drop(self, adapter: Adapter) -> None:
        self.dropped.append(adapter.request.lora_int_id)


@pytest.fixture
def adapter(fixtures: dict[str, Any]) -> Adapter:
    path = fixtures["adapters"]["lora_a"]
    return Adapter("a", 1, inspect_adapter(path, max_lora_rank=16), LoRARequest("a@1", 1, path))


def test_one_reading_for_all_who_wait(adapter: Adapter) -> None:
    async def scenario() -> Disk:
        disk = Disk()
        waiting = [asyncio.ensure_future(disk.readings.of(adapter)) for _ in range(3)]
        await asyncio.sleep(0)
        waiting[0].cancel()
        disk.free.set()
        ends = await asyncio.gather(*waiting, return_exceptions=True)
        assert [type(end) for end in ends] == [asyncio.CancelledError, type(None), type(None)]
        await disk.readings.of(adapter)
        return disk

    disk = asyncio.run(scenario())
    assert disk.read == [1]
    assert disk.dropped == []


def test_everybody_who_waits_may_go(adapter: Adapter) -> None:
    async def scenario() -> None:
        disk = Disk()
        waiting = asyncio.ensure_future(disk.readings.of(adapter))
        await asyncio.sleep(0)
        waiting.cancel()
        disk.free.set()
        while not adapter.tried:
            await asyncio.sleep(0)

    asyncio.run(scenario())


def test_a_failed_reading_is_tried_again(adapter: Adapter) -> None:
    async def scenario() -> Disk:
        disk = Disk()
        disk.free.set()
        disk.failure = SettingsError("no weights")
        for _ in range(2):
            with pytest.raises(SettingsError, match="no weights"):
                await disk.readings.of(adapter)
        disk.failure = None
        await disk.readings.of(adapter)
        return disk

    assert asyncio.run(scenario()).read == [1, 1, 1]


def test_weights_of_an_adapter_that_was_unloaded_meanwhile_are_dropped(adapter: Adapter) -> None:
    async def scenario() -> Disk:
        disk = Disk()
        waiting = asyncio.ensure_future(disk.readings.of(adapter))
        await asyncio.sleep(0)
        adapter.retired = True
        disk.free.set()
        await waiting
        return disk

    assert asyncio.run(scenario()).dropped == [1]
