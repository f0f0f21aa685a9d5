"""The adapters that a model serves: names, versions, where their weights are, and what they have served."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import time
from collections.abc import Callable, Iterator
from typing import Any

from tritonode.errors import (
    AlreadyExistsError,
    BackendError,
    InvalidRequestError,
    NotFoundError,
    SettingsError,
    UnsupportedError,
)
from tritonode.vllm.lora import LoRARequest, renames_weights

from .adapter import Adapter
from .checkpoint import architectures
from .engine import AdapterEngine
from .files import AdapterFiles, check_finite, inspect_adapter
from .first_readings import FirstReadings
from .modules import ModelModules, model_problems
from .saved import Entry
from .scaled import SEPARATOR, ScaledFolders, check_scale, variant_name

# The maximum number of variants of one adapter that requests have made. The least recently used one is unloaded.
_MOST_VARIANTS = 16


class AdapterRegistry:
    """Adapters by name. Runs on the asyncio loop of the engine; no other thread may use it once the model serves.

    Adapters are checked and registered before the engine is built (`register`), and served once it is `attach`ed.
    """

    def __init__(self, *, max_lora_rank: int, base_model: str, folders: ScaledFolders | None = None) -> None:
        self._engine: AdapterEngine | None = None
        self._max_lora_rank = max_lora_rank
        self._base_model = base_model
        self._modules: ModelModules | None = None
        self._current: dict[str, Adapter] = {}
        self._ids = itertools.count(1)
        self._versions: dict[str, int] = {}
        # Called after each request on an adapter, with the adapter's name and the arguments of `record_adapter`.
        self.on_end: Callable[..., None] = lambda _name, **_measures: None
        # Called after each change to the served adapters.
        self.on_change: Callable[[], None] = lambda: None
        # One change to an adapter at a time. Requests do not wait for it.
        self._changing: dict[str, asyncio.Lock] = {}
        # Adapters that are being pinned. Space for them is reserved before their weights are loaded.
        self._pinning: set[str] = set()
        self._folders = folders or ScaledFolders()
        self._first_readings = FirstReadings(self.warm, self._remove)
        # Called after each change, with its kind: load, replace, unload, pin, unpin. With `fail` and an `error` it is
        # called when an adapter that is loaded in the background cannot be read.
        self.on_event: Callable[..., None] = lambda _action, _adapter, **_details: None

    def attach(self, engine: AdapterEngine) -> None:
        self._engine = engine
        engine.on_failure = self._could_not_be_read

    def _could_not_be_read(self, lora_id: int, failure: Exception) -> None:
        """Called after a step that used wrong weights for this version. The prefix cache may hold their results."""
        for adapter in self._current.values():
            if adapter.request.lora_int_id == lora_id:
                adapter.broken = str(failure)

    def know(self, modules: ModelModules) -> list[SettingsError]:
        """Check all adapters, and later ones, against the model that vLLM has built. Removes those that do not fit.

        Returns the reason for each of them.
        """
        self._modules = modules
        misfits = []
        for name, adapter in list(self._current.items()):
            problems = model_problems(adapter.files.tensors, modules)
            if problems:
                del self._current[name]
                misfits.append(SettingsError(f"adapter '{name}' ({adapter.files.path}): {'; '.join(problems)}"))
        return misfits

    @property
    def engine(self) -> AdapterEngine:
        if self._engine is None:
            raise RuntimeError("the registry has no engine yet")
        return self._engine

    @property
    def names(self) -> list[str]:
        return list(self._current)

    def register(self, name: str, path: str) -> Adapter:
        """Check the adapter's files and add it, without loading its weights.

        Raises SettingsError with the adapter's name and the reason.
        """
        adapter = self._new_version(name, self._inspect(name, path))
        self._current[name] = adapter
        return adapter

    def _inspect(self, name: str, path: str) -> AdapterFiles:
        if not name or "@" in name:
            raise InvalidRequestError(f"an adapter's name must not be empty nor hold '@', got {name!r}")
        try:
            files = self._read(path)
        except OSError as failure:
            raise SettingsError(f"adapter '{name}': cannot read {path}: {failure}") from failure
        except SettingsError as failure:
            raise SettingsError(f"adapter '{name}': {failure}") from failure
        if not files.usable:
            raise SettingsError(f"adapter '{name}' ({path}): {'; '.join(files.problems)}")
        return files

    def _read(self, path: str) -> AdapterFiles:
        """Return an adapter's headers and problems, for the built model, or before that for its checkpoint."""
        modules = self._modules
        if modules is None:
            return inspect_adapter(
                path, max_lora_rank=self._max_lora_rank, base_model=self._base_model, renamed=self._renamed
            )
        files = inspect_adapter(path, max_lora_rank=self._max_lora_rank)
        if files.usable:
            files.problems.extend(model_problems(files.tensors, modules))
        return files

    def _renamed(self) -> bool:
        return renames_weights(architectures(self._base_model))

    def _new_version(self, name: str, files: AdapterFiles) -> Adapter:
        version = self._versions.get(name, 0) + 1
        self._versions[name] = version
        lora_id = next(self._ids)
        request = LoRARequest(lora_name=f"{name}@{version}", lora_int_id=lora_id, lora_path=files.path)
        return Adapter(name, version, files, request)

    def get(self, name: str) -> Adapter:
        """Return the current version. Raises NotFoundError with the same message as Triton's vLLM backend."""
        adapter = self._current.get(name)
        if adapter is None:
            raise NotFoundError(f"LoRA {name} is not supported, we currently support {self.names}")
        return adapter

    async def for_request(self, name: str, path: str | None, scale: float | None = None) -> Adapter:
        """Return the adapter that a request names. If the request has a path and the adapter is not loaded, load it.

        With a scale other than 1 it is the adapter's variant at that scale, which is loaded when it is first asked for.

        Raises SettingsError when the files have changed or are missing since they were checked. vLLM would find that
        out in the middle of a step, which would end the engine for all requests.
        """
        if scale is not None and scale != 1:
            adapter = await self._variant(name, path, scale)
        else:
            if path is not None and name not in self._current:
                with contextlib.suppress(AlreadyExistsError):  # Another request has loaded it in the meantime.
                    await self.load(name, path)
            adapter = self.get(name)
        if path is not None and os.path.realpath(path) != os.path.realpath(adapter.files.source):
            raise AlreadyExistsError(
                f"adapter '{name}' is loaded from {adapter.files.source}, the request says {path}; replace it first"
            )
        await self._check_on_disk(adapter)
        return adapter

    async def _variant(self, name: str, path: str | None, scale: float) -> Adapter:
        check_scale(scale)
        variant = variant_name(name, scale)
        if variant not in self._current:
            loaded = self._current.get(name)
            if loaded is None and path is None:
                return self.get(name)  # raises
            source = loaded.files.path if loaded is not None else str(path)
            with contextlib.suppress(AlreadyExistsError):
                await self._publish(variant, await asyncio.to_thread(self._folders.make, source, scale))
            await self._drop_variants(name, keep=_MOST_VARIANTS)
        return self.get(variant)

    async def _drop_variants(self, name: str, *, keep: int = 0) -> None:
        """Unload the variants of an adapter, except the `keep` most recently used ones; those in use come last."""
        variants = [each for key, each in self._current.items() if key.startswith(name + SEPARATOR)]
        variants.sort(key=lambda each: (each.running > 0, each.last_used or each.loaded_at))
        for adapter in variants[: max(0, len(variants) - keep)]:
            if keep == 0 or adapter.running == 0:
                with contextlib.suppress(NotFoundError):
                    await self.unload(adapter.name)

    async def _check_on_disk(self, adapter: Adapter) -> None:
        """Check an adapter that is not in memory, so that its problems are found now and not in a step."""
        lora_id = adapter.request.lora_int_id
        self._refuse_broken(adapter)
        await self.engine.refresh(lora_id)
        if self.engine.locate(lora_id) != "disk":
            return
        if not adapter.files.unchanged():
            raise SettingsError(
                f"adapter '{adapter.name}': the files in {adapter.files.path} have changed or gone since they were "
                "checked; replace the adapter or unload it"
            )
        # Reads it if there was no space for it when the model started, or if its turn in the background has not come.
        await self.read(adapter)

    def _refuse_broken(self, adapter: Adapter) -> None:
        if adapter.broken is not None:
            raise SettingsError(f"{adapter.broken}; replace the adapter or unload it")

    async def read(self, adapter: Adapter) -> None:
        """Load the adapter's weights unless they have been loaded once. Raises SettingsError if that fails."""
        await self._first_readings.of(adapter)

    async def _remove(self, adapter: Adapter) -> None:
        await self.engine.remove(adapter.request.lora_int_id)

    async def warm(self, adapter: Adapter) -> None:
        """Load the adapter's weights into the engine. Raises SettingsError with the reason if that fails."""
        try:
            await asyncio.to_thread(check_finite, adapter.files.path)
        except Exception as failure:
            raise SettingsError(f"adapter '{adapter.name}' ({adapter.files.path}): {failure}") from failure
        await self._add(adapter)
        adapter.tried = True

    async def _add(self, adapter: Adapter) -> None:
        try:
            await self.engine.add(adapter.request)
        except Exception as failure:
            raise SettingsError(f"adapter '{adapter.name}' ({adapter.files.path}): {failure}") from failure

    async def load(self, name: str, path: str, *, replace: bool = False, scale: float | None = None) -> Adapter:
        """Check, load and publish an adapter while requests run.

        With `replace` it takes the place of the adapter of that name. Running requests finish with the old version, and
        its scaled variants are unloaded. With `scale` its weights are multiplied.
        """
        if SEPARATOR in name:
            raise InvalidRequestError(f"an adapter's name must not hold '{SEPARATOR}', got {name!r}")
        if scale is not None and scale != 1:
            check_scale(scale)
            path = await asyncio.to_thread(self._folders.make, path, scale)
        adapter = await self._publish(name, path, replace=replace)
        if replace:
            await self._drop_variants(name)
        return adapter

    async def _publish(self, name: str, path: str, *, replace: bool = False) -> Adapter:
        async with self._changing.setdefault(name, asyncio.Lock()):
            previous = self._current.get(name)
            if previous is not None and not replace:
                raise AlreadyExistsError(
                    f"adapter '{name}' is loaded already, from {previous.files.source}; replace it or unload it first"
                )
            if replace:
                self.get(name)
            # On a thread: headers are small, but the disk may be slow.
            adapter = self._new_version(name, await asyncio.to_thread(self._inspect, name, path))
            await self.warm(adapter)
            if previous is not None and previous.pinned:
                await self._set_pinned(previous, False)
                await self._set_pinned(adapter, True)
            self._current[name] = adapter
            self._changed("replace" if replace else "load", adapter)
            if previous is not None:
                await self._retire(previous)
            return adapter

    def _changed(self, action: str, adapter: Adapter) -> None:
        self.on_change()
        self.on_event(action, adapter)

    async def unload(self, name: str) -> Adapter:
        """Remove an adapter. Running requests finish first; new ones do not find it."""
        async with self._changing.setdefault(name, asyncio.Lock()):
            adapter = self.get(name)
            if adapter.pinned:
                await self._set_pinned(adapter, False)
            del self._current[name]
            self._changed("unload", adapter)
            await self._retire(adapter)
        if SEPARATOR not in name:
            await self._drop_variants(name)
        return adapter

    async def pin(self, name: str, pinned: bool) -> Adapter:
        """Keep an adapter's weights in host memory, or let them be evicted again.

        Host memory must have room for as many unpinned adapters as a batch can hold; the rest of it can be pinned.
        """
        async with self._changing.setdefault(name, asyncio.Lock()):
            adapter = self.get(name)
            if pinned == adapter.pinned:
                return adapter
            if pinned:
                self._refuse_broken(adapter)
            with self._room_to_pin(name) if pinned else contextlib.nullcontext():
                if pinned:
                    await self.warm(adapter)
                await self._set_pinned(adapter, pinned)
            self._changed("pin" if pinned else "unpin", adapter)
            return adapter

    @contextlib.contextmanager
    def _room_to_pin(self, name: str) -> Iterator[None]:
        """Reserve room for one more pinned adapter while it is being pinned. Raises UnsupportedError if there is none.

        Adapters can be pinned concurrently, so each call counts those that have begun. Otherwise they could pin all of
        host memory, and the next adapter to be loaded would find no room in the middle of a step.
        """
        room = self.engine.host_capacity - self.engine.slots
        pinned = {each.name for each in self._current.values() if each.pinned}
        if len(pinned | self._pinning) >= room:
            raise UnsupportedError(
                f"adapter '{name}' cannot be pinned: {room} can be, with max_cpu_loras "
                f"{self.engine.host_capacity} and max_loras {self.engine.slots}; raise max_cpu_loras"
            )
        self._pinning.add(name)
        try:
            yield
        finally:
            self._pinning.discard(name)

    async def _set_pinned(self, adapter: Adapter, pinned: bool) -> None:
        await self.engine.set_pinned(adapter.request, pinned)
        adapter.pinned = pinned

    async def _retire(self, adapter: Adapter) -> None:
        adapter.retired = True
        if adapter.is_unused:
            await self._remove(adapter)

    def begin(self, adapter: Adapter) -> None:
        """Count a request that starts on this version."""
        adapter.running += 1
        adapter.last_used = time.time()

    async def end(
        self, adapter: Adapter, *, tokens: int, failed: bool, first_token: float | None = None, total: float = 0.0
    ) -> None:
        """Count a request that has ended. The last one on a retired version frees its weights. Times are in seconds."""
        self.on_end(adapter.name, tokens=tokens, first_token=first_token, total=total, failed=failed)
        adapter.running -= 1
        adapter.tokens += tokens
        adapter.last_used = time.time()
        if failed:
            adapter.failed += 1
        else:
            adapter.served += 1
        if adapter.is_unused:
            await self._remove(adapter)

    def entries(self) -> list[Entry]:
        """Return the served adapters, to save them for a restart."""
        return [Entry(name, adapter.files.path, adapter.pinned) for name, adapter in self._current.items()]

    async def describe(self, *adapters: Adapter) -> list[dict[str, Any]]:
        await self.engine.refresh()
        return [adapter.as_dict(self.engine.locate(adapter.request.lora_int_id)) for adapter in adapters]

    async def list(self) -> list[dict[str, Any]]:
        return await self.describe(*self._current.values())

    async def inspect(self, path: str) -> dict[str, Any]:
        """Return what an adapter's folder contains and whether it would load here. Reads all of it, on a thread."""
        return await asyncio.to_thread(self._look_at, path)

    def _look_at(self, path: str) -> dict[str, Any]:
        try:
            files = self._read(path)
            if files.usable:
                check_finite(path)
            return files.as_dict()
        except (OSError, BackendError) as failure:
            return {"path": path, "loadable": False, "problems": [str(failure)]}
