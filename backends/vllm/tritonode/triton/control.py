"""`control_request`: operations on a model other than generating text. A JSON object with `op`, answered in JSON.

Any Triton client can send it: put the object into the input `control_request` and read `text_output`.
"""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from typing import Any

from tritonode.contract.sampling import parse_object
from tritonode.errors import InvalidRequestError, UnsupportedError, did_you_mean
from tritonode.lora.adapter import Adapter
from tritonode.lora.registry import AdapterRegistry

_CHANGES = frozenset({"adapters.load", "adapters.replace", "adapters.unload", "adapters.pin", "adapters.unpin"})


class Control:
    """The operations of one model."""

    def __init__(
        self,
        adapters: AdapterRegistry | None,
        info: Callable[[], Awaitable[dict[str, Any]]],
        cancel: Callable[[list[str]], int],
        end: Callable[[], Awaitable[bool]],
        instances: int = 1,
    ) -> None:
        self._adapters = adapters
        self._instances = instances
        self._info = info
        self._cancel = cancel
        self._end = end
        self._operations: dict[str, Callable[[dict[str, Any]], Any]] = {
            "info": self._get_info,
            "cancel": self._cancel_requests,
            "end": self._prepare_end,
            "adapters.list": self._list,
            "adapters.get": self._get,
            "adapters.inspect": self._inspect,
            "adapters.resolve": self._resolve,
            "adapters.load": self._load,
            "adapters.replace": self._replace,
            "adapters.unload": self._unload,
            "adapters.pin": self._pin,
            "adapters.unpin": self._unpin,
        }

    async def answer(self, text: str) -> str:
        """Carry out one control request; raises BackendError."""
        request = parse_object(text, "control_request")
        name = request.get("op")
        operation = self._operations.get(name) if isinstance(name, str) else None
        if operation is None:
            near = did_you_mean(str(name), self._operations)
            raise InvalidRequestError(f"control_request: unknown op {name!r}{near}")
        if self._instances > 1 and name in _CHANGES:
            raise UnsupportedError(
                f"control_request: {name} would reach one of the model's {self._instances} instances; set `count: 1` "
                "in the instance_group of config.pbtxt, or `watch_multi_lora` in model.json, which all of them follow"
            )
        return json.dumps(await operation(request))

    @property
    def _registry(self) -> AdapterRegistry:
        if self._adapters is None:
            raise UnsupportedError("LoRA feature is not enabled.")
        return self._adapters

    async def _one(self, adapter: Adapter) -> Any:
        return (await self._registry.describe(adapter))[0]

    async def _get_info(self, request: dict[str, Any]) -> Any:
        return await self._info()

    async def _cancel_requests(self, request: dict[str, Any]) -> Any:
        tokens = request.get("tokens")
        if not isinstance(tokens, list) or not all(isinstance(token, str) for token in tokens):
            raise InvalidRequestError(f"control_request: 'tokens' must be a list of strings, got {tokens!r:.80}")
        return {"cancelled": self._cancel(tokens)}

    async def _prepare_end(self, request: dict[str, Any]) -> Any:
        return {"ended": await self._end()}

    async def _list(self, request: dict[str, Any]) -> Any:
        return await self._registry.list()

    async def _get(self, request: dict[str, Any]) -> Any:
        return await self._one(self._registry.get(_text(request, "name")))

    async def _inspect(self, request: dict[str, Any]) -> Any:
        return await self._registry.inspect(_text(request, "path"))

    async def _resolve(self, request: dict[str, Any]) -> Any:
        """The name to ask for, of an adapter that is given with a path or a scale; loads it if it has to."""
        path = None if request.get("path") is None else _text(request, "path")
        adapter = await self._registry.for_request(_text(request, "name"), path, _scale(request))
        return {"name": adapter.name}

    async def _load(self, request: dict[str, Any]) -> Any:
        name, path = _text(request, "name"), _text(request, "path")
        return await self._one(await self._registry.load(name, path, scale=_scale(request)))

    async def _replace(self, request: dict[str, Any]) -> Any:
        name, path = _text(request, "name"), _text(request, "path")
        return await self._one(await self._registry.load(name, path, replace=True, scale=_scale(request)))

    async def _unload(self, request: dict[str, Any]) -> Any:
        return await self._one(await self._registry.unload(_text(request, "name")))

    async def _pin(self, request: dict[str, Any]) -> Any:
        return await self._one(await self._registry.pin(_text(request, "name"), True))

    async def _unpin(self, request: dict[str, Any]) -> Any:
        return await self._one(await self._registry.pin(_text(request, "name"), False))


def _scale(request: dict[str, Any]) -> float | None:
    value = request.get("scale")
    if value is not None and (not isinstance(value, int | float) or isinstance(value, bool)):
        raise InvalidRequestError(f"control_request: 'scale' must be a number, got {value!r:.80}")
    return None if value is None else float(value)


def _text(request: dict[str, Any], key: str) -> str:
    value = request.get(key)
    if not isinstance(value, str) or not value:
        raise InvalidRequestError(f"control_request: '{key}' must be a non-empty string, got {value!r}")
    return value
