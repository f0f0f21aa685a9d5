"""Checks and loads a model's adapters while the model is being loaded."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import Any

from tritonode.engine.engine import Engine
from tritonode.engine.settings import EngineSettings
from tritonode.errors import SettingsError

from .adapter import Adapter
from .engine import AdapterEngine
from .files import highest_rank
from .registry import AdapterRegistry
from .saved import Entry, SavedAdapters
from .slots import bound_slots

# The values that vLLM accepts for `max_lora_rank` (`MaxLoRARanks` in vllm/config/lora.py), and its default.
_RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)
_DEFAULT_RANK = 16


def rank_for(paths: Iterable[str]) -> int:
    """Return the smallest `max_lora_rank` for these adapters, but at least vLLM's default."""
    highest = _DEFAULT_RANK
    for path in paths:
        # Errors in an adapter's files are reported when the files are checked.
        with suppress(SettingsError, OSError):
            highest = max(highest, highest_rank(path))
    return next((rank for rank in _RANKS if rank >= highest), _RANKS[-1])


class AdapterStart:
    """The adapters of `multi_lora.json`; after a crash, those that the previous process served.

    An adapter that cannot be used fails the load. After a crash it is skipped instead, because the others can still be
    served.
    """

    def __init__(
        self, settings: EngineSettings, saved: SavedAdapters, report: Callable[..., None], logger: Any
    ) -> None:
        self._settings = settings
        self._saved = saved
        self._report = report
        self._logger = logger
        self._restored = False
        self._to_pin: list[str] = []
        self._left: list[Adapter] = []
        # Set by `load`.
        self.engine: AdapterEngine

    def check(self, memory: int) -> AdapterRegistry | None:
        """Check every adapter's files, before the engine is built; None without LoRA. Raises SettingsError.

        `memory`: bytes that the adapters' slots may take, and what else the engine allocates.
        """
        if not self._settings.enable_lora:
            return None
        restored = self._saved.read()
        self._restored = restored is not None
        wanted = [Entry(*item) for item in self._settings.loras.items()] if restored is None else restored
        self._report("check-adapters", count=len(wanted))
        args = self._settings.engine_args
        # With vLLM's default, adapters of a higher rank would be refused, although their ranks are known here.
        args.setdefault("max_lora_rank", rank_for(entry.path for entry in wanted))
        note = bound_slots(self._settings, memory)
        if note is not None:
            self._logger.log_info(f"[vllm] {note}")
        registry = AdapterRegistry(
            max_lora_rank=int(args["max_lora_rank"]),
            base_model=str(args["model"]),
            folders=self._saved.scaled_folders(),
        )
        self._to_pin = [entry.name for entry in wanted if entry.pinned]
        for entry in wanted:
            try:
                registry.register(entry.name, entry.path)
            except SettingsError as failure:
                self._refuse(failure)
        return registry

    def _refuse(self, failure: SettingsError) -> None:
        if not self._restored:
            raise failure
        self._logger.log_error(f"[vllm] not restored after the restart: {failure}")

    def load(self, registry: AdapterRegistry, engine: Engine) -> list[Any]:
        """Load as many adapters as host memory holds, or leave them to `load_in_background` if the model asks for that.

        Returns requests for the warm-up batch.
        """
        args = self._settings.engine_args
        slots, host_capacity = int(args["max_loras"]), int(args["max_cpu_loras"])
        self.engine = AdapterEngine(engine.llm, slots=slots, host_capacity=host_capacity)
        registry.attach(self.engine)
        misfits = registry.know(engine.call(self.engine.watch_loads()).result())
        for misfit in misfits:
            self._refuse(misfit)
        adapters = [registry.get(name) for name in registry.names[:host_capacity]]
        if self._settings.own.get("load_loras_in_background"):
            self._left, adapters = adapters, []
        for position, adapter in enumerate(adapters):
            self._report("load-adapter", name=adapter.name, done=position, total=len(adapters))
            engine.call(registry.warm(adapter)).result()
        for name in self._to_pin:
            if name in registry.names:
                engine.call(registry.pin(name, True)).result()
        self._saved.write(registry.entries())
        registry.on_change = lambda: self._saved.write(registry.entries())
        return [adapter.request for adapter in adapters[: min(2, slots)]]

    async def load_in_background(self, registry: AdapterRegistry, is_dead: Callable[[], bool]) -> None:
        """Load what `load` has left, one adapter after the other, and report each as an event.

        A request does not wait for the adapters before its own: `AdapterRegistry.for_request` reads it at once.
        """
        for adapter in self._left:
            if adapter.retired:
                continue
            try:
                await registry.read(adapter)
            except SettingsError as failure:
                if is_dead():
                    return
                self._logger.log_error(f"[vllm] {failure}")
                registry.on_event("fail", adapter, error=str(failure))
            else:
                registry.on_event("load", adapter)
