"""`http_request`: vLLM's own HTTP application, called through Triton. No server, no port, no socket.

The request tensor holds one or two elements: a JSON head `{"method", "path", "headers": [[name, value], ...]}` (the
path with its query) and the body. The output `http_response` is a stream: the first response's first element is the
JSON head `{"status", "headers"}`; all other elements, in order, are the body. The final response ends the body.

A client that needs flow control sends `"window": bytes` in its head, and acknowledges what it has read by further
requests with the head `{"read": request id, "bytes": count}`. The application waits while more than the window is
unread.
"""

from __future__ import annotations

import asyncio
import contextlib
import traceback
from collections.abc import Awaitable, Callable
from typing import Any

from tritonode.contract.sampling import parse_object
from tritonode.errors import BackendError, InvalidRequestError
from tritonode.lora.registry import AdapterRegistry

from .call import HttpCall, HttpRequest

# How long the engine must be idle before the application is built in advance.
_IDLE_SECONDS = 2.0


# Sends elements of `http_response`; the flag says whether they are the last ones.
Send = Callable[[list[bytes], bool], Awaitable[None]]


class HttpHandler:
    """Answers `http_request`s. Runs on the engine's loop."""

    def __init__(
        self,
        llm: Any,
        registry: AdapterRegistry | None,
        model_name: str,
        args: Callable[[], Any],
    ) -> None:
        self._llm = llm
        self._registry = registry
        self._model_name = model_name
        self._args = args
        self._building: asyncio.Task[Any] | None = None
        self._calls: dict[str, HttpCall] = {}

    async def prepare(self) -> Any:
        """The application, built once. If building it failed, raises that error each time."""
        if self._building is None:
            # A separate task: cancelling the first request must not cancel building for the others.
            self._building = asyncio.ensure_future(self._build())
        return await asyncio.shield(self._building)

    async def prepare_when_idle(self, is_idle: Callable[[], bool]) -> None:
        """Build the application before the first request, but not while the engine works.

        Importing FastAPI and the routes takes about a second of Python, which would delay the start or slow down
        running requests.
        """
        while self._building is None:
            await asyncio.sleep(_IDLE_SECONDS)
            if is_idle():
                with contextlib.suppress(Exception):
                    # The first request reports the error.
                    await self.prepare()

    async def _build(self) -> Any:
        from .application import build_application, import_application

        # On a thread, so that the event loop can deliver the engine's outputs in the meantime.
        await asyncio.to_thread(import_application)
        return await build_application(self._llm, self._args(), self._registry, self._model_name)

    async def serve(self, request_id: str, parts: list[bytes], send: Send) -> None:
        """Answer one request; raises BackendError if it is not a valid one."""
        head = _parse_head(parts)
        if "read" in head:
            self._note_read(head)
            await send([], True)
            return
        request = HttpRequest.parse(head, parts[1] if len(parts) > 1 else b"")
        application = await self.prepare()
        call = HttpCall(request, send)
        self._calls[request_id] = call
        try:
            await call.run(application)
        except BackendError:
            raise
        except Exception as failure:
            # vLLM has already answered, or logged, the errors that it knows.
            traceback.print_exc()
            raise BackendError(f"the HTTP application failed: {type(failure).__name__}: {failure}") from failure
        finally:
            if self._calls.get(request_id) is call:
                del self._calls[request_id]

    def _note_read(self, head: dict[str, Any]) -> None:
        count = head.get("bytes")
        if not isinstance(head["read"], str) or type(count) is not int or count < 0:
            raise InvalidRequestError(f"http_request: a read needs a request id and 'bytes', got {str(head)[:80]}")
        # The request may have ended.
        call = self._calls.get(head["read"])
        if call is not None:
            call.read(count)


def _parse_head(parts: list[bytes]) -> dict[str, Any]:
    if not 1 <= len(parts) <= 2:
        raise InvalidRequestError(f"http_request takes a head and a body, got {len(parts)} elements")
    try:
        return parse_object(parts[0].decode("utf-8"), "http_request")
    except UnicodeDecodeError as failure:
        raise InvalidRequestError(f"the head of http_request is not valid UTF-8: {failure}") from failure
