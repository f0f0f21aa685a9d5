"""The adapters a model serves: names, versions, where each one is, and what it has served."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from .adapter_files import AdapterFiles, check_finite, inspect_adapter
from .errors import (
    AlreadyExistsError,
    BackendError,
    InvalidRequestError,
    NotFoundError,
    SettingsError,
    UnsupportedError,
    did_you_mean,
)
from .ledger import Entry
from .vllm_api import LoRARequest


@dataclass
class Adapter:
    """One version of an adapter. A new version gets a new integer id and a new cache name.

    vLLM keys its weights by the id and its prefix cache by the name: reusing either would serve the old version's
    weights or its cached prefixes.
    """

    name: str
    version: int
    files: AdapterFiles
    request: LoRARequest
    pinned: bool = False
    retired: bool = False
    running: int = 0
    served: int = 0
    failed: int = 0
    tokens: int = 0
    last_used: float = 0.0
    loaded_at: float = field(default_factory=time.time)

    def as_dict(self, state: str) -> dict[str, Any]:
        """The JSON form that `adapters.list` answers with; times are seconds since the epoch."""
        return {
            "name": self.name,
            "version": self.version,
            "path": self.files.path,
            "rank": self.files.rank,
            "alpha": self.files.alpha,
            "target_modules": self.files.target_modules,
            "size_bytes": self.files.size_bytes,
            "state": state,
            "pinned": self.pinned,
            "running": self.running,
            "served": self.served,
            "failed": self.failed,
            "tokens": self.tokens,
            "last_used": self.last_used,
            "loaded_at": self.loaded_at,
        }


class AdapterRegistry:
    """Adapters by name. Lives on the asyncio loop of the engine; not for use from other threads.

    `engine` offers vLLM's `add_lora`, `remove_lora`, `pin_lora` coroutines; `locate(lora_id)` says where an adapter's
    weights are now: "slot", "host" or "disk".
    """

    def __init__(
        self, engine: Any, *, max_lora_rank: int, base_model: str, locate: Callable[[int], str] | None = None
    ) -> None:
        self._engine = engine
        self._max_lora_rank = max_lora_rank
        self._base_model = base_model
        self._locate = locate or (lambda _lora_id: "host")
        self._current: dict[str, Adapter] = {}
        self._ids = itertools.count(1)
        self._versions: dict[str, int] = {}
        # Called after each change of what is served.
        self.on_change: Callable[[], None] = lambda: None

    @property
    def names(self) -> list[str]:
        return list(self._current)

    def register(self, name: str, path: str) -> Adapter:
        """Check the adapter's files and make it known, without loading its weights.

        Raises SettingsError with the adapter's name and the reason.
        """
        adapter = self._new_version(name, self._inspect(name, path))
        self._current[name] = adapter
        return adapter

    def _inspect(self, name: str, path: str) -> AdapterFiles:
        try:
            files = inspect_adapter(path, max_lora_rank=self._max_lora_rank, base_model=self._base_model)
        except OSError as failure:
            raise SettingsError(f"adapter '{name}': cannot read {path}: {failure}") from failure
        except SettingsError as failure:
            raise SettingsError(f"adapter '{name}': {failure}") from failure
        if not files.usable:
            raise SettingsError(f"adapter '{name}' ({path}): {'; '.join(files.problems)}")
        return files

    def _new_version(self, name: str, files: AdapterFiles) -> Adapter:
        version = self._versions.get(name, 0) + 1
        self._versions[name] = version
        lora_id = next(self._ids)
        request = LoRARequest(lora_name=f"{name}@{version}", lora_int_id=lora_id, lora_path=files.path)
        return Adapter(name, version, files, request)

    def get(self, name: str) -> Adapter:
        """The current version; raises NotFoundError in the words of Triton's vLLM backend."""
        adapter = self._current.get(name)
        if adapter is None:
            raise NotFoundError(f"LoRA {name} is not supported, we currently support {self.names}")
        return adapter

    async def warm(self, adapter: Adapter) -> None:
        """Load the adapter's weights into the engine; raises SettingsError with the reason."""
        try:
            await asyncio.to_thread(check_finite, adapter.files.path)
            await self._engine.add_lora(adapter.request)
        except Exception as failure:
            raise SettingsError(f"adapter '{adapter.name}' ({adapter.files.path}): {failure}") from failure

    async def load(self, name: str, path: str, *, replace: bool = False) -> Adapter:
        """Check, load and publish an adapter while requests run.

        With `replace` an adapter of that name is superseded: requests that run on the old version finish with it.
        """
        if not name or "@" in name:
            raise InvalidRequestError(f"an adapter's name must not be empty nor hold '@', got {name!r}")
        previous = self._current.get(name)
        if previous is not None and not replace:
            raise AlreadyExistsError(
                f"adapter '{name}' is loaded already, from {previous.files.path}; replace it or unload it first"
            )
        if previous is None and replace:
            raise NotFoundError(f"there is no adapter '{name}' to replace{did_you_mean(name, self._current)}")
        adapter = self._new_version(name, self._inspect(name, path))
        await self.warm(adapter)
        if previous is not None:
            adapter.pinned = previous.pinned
            if adapter.pinned:
                await self._engine.pin_lora(adapter.request.lora_int_id)
        self._current[name] = adapter
        self.on_change()
        if previous is not None:
            await self._retire(previous)
        return adapter

    async def unload(self, name: str) -> Adapter:
        """Forget an adapter; requests that run on it finish first, new ones do not find it."""
        adapter = self.get(name)
        del self._current[name]
        self.on_change()
        await self._retire(adapter)
        return adapter

    async def pin(self, name: str, pinned: bool) -> Adapter:
        """Keep an adapter's weights in a slot (never evicted), or let them go again."""
        adapter = self.get(name)
        if pinned and not adapter.pinned:
            await self.warm(adapter)
            try:
                await self._engine.pin_lora(adapter.request.lora_int_id)
            except Exception as failure:
                raise UnsupportedError(f"adapter '{name}' cannot be pinned: {failure}") from failure
        elif adapter.pinned and not pinned:
            # vLLM has no unpin: taking the adapter out frees the pin, and the next request loads it again.
            await self._engine.remove_lora(adapter.request.lora_int_id)
        adapter.pinned = pinned
        self.on_change()
        return adapter

    async def _retire(self, adapter: Adapter) -> None:
        adapter.retired = True
        if adapter.running == 0:
            await self._engine.remove_lora(adapter.request.lora_int_id)

    def begin(self, adapter: Adapter) -> None:
        """Count a request that starts on this version."""
        adapter.running += 1
        adapter.last_used = time.time()

    async def end(self, adapter: Adapter, *, tokens: int, failed: bool) -> None:
        """Count a request that has ended; the last one on a retired version frees its weights."""
        adapter.running -= 1
        adapter.tokens += tokens
        adapter.last_used = time.time()
        if failed:
            adapter.failed += 1
        else:
            adapter.served += 1
        if adapter.retired and adapter.running == 0:
            await self._engine.remove_lora(adapter.request.lora_int_id)

    def entries(self) -> list[Entry]:
        """What is served now, for the ledger."""
        return [Entry(name, adapter.files.path, adapter.pinned) for name, adapter in self._current.items()]

    def describe(self, adapter: Adapter) -> dict[str, Any]:
        return adapter.as_dict(self._locate(adapter.request.lora_int_id))

    def list(self) -> list[dict[str, Any]]:
        return [self.describe(adapter) for adapter in self._current.values()]

    def inspect(self, path: str) -> dict[str, Any]:
        """What an adapter's folder holds and whether it would load here."""
        try:
            return inspect_adapter(path, max_lora_rank=self._max_lora_rank, base_model=self._base_model).as_dict()
        except (OSError, BackendError) as failure:
            return {"path": path, "loadable": False, "problems": [str(failure)]}
