"""`http_request`: vLLM's own HTTP application, called through Triton. No server, no port, no socket.

The request tensor holds one or two elements: a JSON head `{"method", "path", "headers": [[name, value], ...]}` (the
path with its query) and the body. The output `http_response` is a stream: the first response's first element is the
JSON head `{"status", "headers"}`; all other elements, in order, are the body. The final response ends the body.

A client that may fall behind sends `"window": bytes` in its head, and tells what it has read by further requests with
the head `{"read": request id, "bytes": count}`; the application waits while more than the window is unread.
"""

from __future__ import annotations

import asyncio
import contextlib
import traceback
from collections.abc import Callable
from typing import Any

import numpy as np

from tritonode.contract.sampling import parse_object
from tritonode.errors import BackendError, InvalidRequestError
from tritonode.lora.registry import AdapterRegistry
from tritonode.triton.senders import Sender

from .call import HttpCall, HttpRequest

# How long the engine has had nothing to do before the application is built ahead.
_IDLE_SECONDS = 2.0


class HttpDoor:
    """Answers `http_request`s. Lives on the engine's loop."""

    def __init__(
        self,
        llm: Any,
        registry: AdapterRegistry | None,
        model_name: str,
        args: Any,
        pb_utils: Any,
    ) -> None:
        self._llm = llm
        self._registry = registry
        self._model_name = model_name
        self._args = args
        self._pb_utils = pb_utils
        self._building: asyncio.Task[Any] | None = None
        self._calls: dict[str, HttpCall] = {}

    async def prepare(self) -> Any:
        """The application, built once; raises what building it raised, each time."""
        if self._building is None:
            # A task of its own: the first request's end must not end the building for the others.
            self._building = asyncio.ensure_future(self._build())
        return await asyncio.shield(self._building)

    async def prepare_when_idle(self, is_idle: Callable[[], bool]) -> None:
        """Build the application ahead of the first request, but not while the engine works.

        Importing FastAPI and the routes takes about a second of Python that a start without them need not wait for,
        and that running requests would feel.
        """
        while self._building is None:
            await asyncio.sleep(_IDLE_SECONDS)
            if is_idle():
                with contextlib.suppress(Exception):
                    # What it failed with is said to the first request.
                    await self.prepare()

    async def _build(self) -> Any:
        from .application import build_application, import_application

        # On a thread: the loop serves the engine's outputs meanwhile.
        await asyncio.to_thread(import_application)
        return await build_application(self._llm, self._args, self._registry, self._model_name)

    async def serve(self, request_id: str, parts: list[bytes], sender: Sender) -> None:
        """Answer one request; raises BackendError for one that is none."""
        head = _parse_head(parts)
        if "read" in head:
            self._note_read(head)
            await self._send(sender, [], final=True)
            return
        request = HttpRequest.parse(head, parts[1] if len(parts) > 1 else b"")
        application = await self.prepare()
        call = HttpCall(request, lambda parts, final: self._send(sender, parts, final=final))
        self._calls[request_id] = call
        try:
            await call.run(application)
        except BackendError:
            raise
        except Exception as failure:
            # vLLM has answered or logged what it could name.
            traceback.print_exc()
            raise BackendError(f"the HTTP application failed: {type(failure).__name__}: {failure}") from failure
        finally:
            if self._calls.get(request_id) is call:
                del self._calls[request_id]

    def _note_read(self, head: dict[str, Any]) -> None:
        count = head.get("bytes")
        if not isinstance(head["read"], str) or type(count) is not int or count < 0:
            raise InvalidRequestError(f"http_request: a read needs a request id and 'bytes', got {str(head)[:80]}")
        # One that has ended needs no room any more.
        call = self._calls.get(head["read"])
        if call is not None:
            call.read(count)

    async def _send(self, sender: Sender, parts: list[bytes], *, final: bool) -> None:
        channel = sender.channel
        if channel is not None:
            if not final:
                await channel.room()
            # Latin-1 gives every byte a character of its own, so that JSON can carry a body of whatever bytes.
            sender.put_entry(channel, [[part.decode("latin-1") for part in parts]], final=final)
            return
        tensor = self._pb_utils.Tensor("http_response", np.array(parts, dtype=object))
        await sender.send(self._pb_utils.InferenceResponse(output_tensors=[tensor]), final=final)


def _parse_head(parts: list[bytes]) -> dict[str, Any]:
    if not 1 <= len(parts) <= 2:
        raise InvalidRequestError(f"http_request takes a head and a body, got {len(parts)} elements")
    try:
        return parse_object(parts[0].decode("utf-8"), "http_request")
    except UnicodeDecodeError as failure:
        raise InvalidRequestError(f"the head of http_request is not valid UTF-8: {failure}") from failure
