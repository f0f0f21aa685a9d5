"""The registry of adapters, beside its engine."""

from __future__ import annotations

import asyncio
import os
import shutil
import threading
from pathlib import Path
from typing import Any

import pytest
from tritonode.engine import environment

environment.prepare()

from tritonode.errors import NotFoundError  # noqa: E402
from tritonode.lora.registry import AdapterRegistry  # noqa: E402


def test_replacing_what_is_not_there_fails_as_unloading_it_does(fixtures: dict[str, Any]) -> None:
    """The host recognises an adapter that does not exist by this message (AdapterNotFoundError)."""
    registry = AdapterRegistry(max_lora_rank=16, base_model=fixtures["models"]["tiny"])
    for change in (registry.unload("nobody"), registry.load("nobody", fixtures["adapters"]["lora_a"], replace=True)):
        with pytest.raises(NotFoundError, match="LoRA nobody is not supported, we currently support"):
            asyncio.run(change)


def test_inspecting_reads_the_files_beside_the_loop(fixtures: dict[str, Any], tmp_path: Path) -> None:
    """The configuration is a FIFO, which gives nothing before somebody writes into it: only a free loop can."""
    source = Path(fixtures["adapters"]["lora_a"])
    folder = tmp_path / "slow"
    shutil.copytree(source, folder)
    config = folder / "adapter_config.json"
    content = config.read_bytes()
    config.unlink()
    os.mkfifo(config)
    writers: list[str] = []

    def write(who: str) -> None:
        writers.append(who)
        config.write_bytes(content)

    async def scenario() -> dict[str, Any]:
        registry = AdapterRegistry(max_lora_rank=16, base_model=fixtures["models"]["tiny"])
        asyncio.get_running_loop().call_soon(lambda: threading.Thread(target=write, args=["loop"]).start())
        return await registry.inspect(str(folder))

    # Lets a loop that is blocked go on, so that the test fails and does not hang.
    rescue = threading.Timer(10, write, ["rescue"])
    rescue.daemon = True
    rescue.start()
    found = asyncio.run(scenario())
    rescue.cancel()
    assert writers == ["loop"]
    assert found["loadable"], found
