"""Follow `multi_lora.json` while the model runs (model.json: `"watch_multi_lora": true`)."""

from __future__ import annotations

import asyncio
import os
from typing import Any

from tritonode.engine.settings import MULTI_LORA_FILENAME, read_loras
from tritonode.errors import BackendError

from .registry import AdapterRegistry

_SECONDS = 1.0


async def watch_multi_lora(model_directory: str, registry: AdapterRegistry, logger: Any) -> None:
    """Load, replace and unload adapters as the file says, until cancelled.

    Only adapters that came from the file are unloaded when they leave it. What cannot be done is logged and tried again
    when the file changes next.
    """
    path = os.path.join(model_directory, MULTI_LORA_FILENAME)
    served = read_loras(model_directory)
    seen = _stamp(path)
    while True:
        await asyncio.sleep(_SECONDS)
        now = await asyncio.to_thread(_stamp, path)
        if now == seen or now is None:
            # A file that is missing for a moment is being replaced.
            continue
        seen = now
        try:
            wanted = read_loras(model_directory)
        except (BackendError, OSError) as failure:
            logger.log_error(f"[vllm] {failure}")
            continue
        served = await _follow(registry, served, wanted, logger)


async def _follow(
    registry: AdapterRegistry, served: dict[str, str], wanted: dict[str, str], logger: Any
) -> dict[str, str]:
    """Make the registry serve `wanted`. Returns the file's adapters that are served afterwards."""
    result = dict(served)
    for name, path in wanted.items():
        if served.get(name) == path:
            continue
        try:
            await registry.load(name, path, replace=name in registry.names)
        except BackendError as failure:
            logger.log_error(f"[vllm] {MULTI_LORA_FILENAME}: {failure}")
            continue
        result[name] = path
        logger.log_info(f"[vllm] {MULTI_LORA_FILENAME}: now serving '{name}' from {path}")
    for name in served:
        if name in wanted:
            continue
        del result[name]
        if name in registry.names:
            await registry.unload(name)
            logger.log_info(f"[vllm] {MULTI_LORA_FILENAME}: '{name}' is no longer served")
    return result


def _stamp(path: str) -> tuple[int, int, int] | None:
    try:
        file = os.stat(path)
    except OSError:
        return None
    return (file.st_ino, file.st_size, file.st_mtime_ns)
