"""One call of an ASGI application: a request from a JSON head and a body, and its response sent piece by piece."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any
from urllib.parse import unquote

from tritonode.errors import InvalidRequestError

Message = dict[str, Any]
# Called with the parts of the next response, and whether it is the last one.
Send = Callable[[list[bytes], bool], Awaitable[None]]


@dataclass
class HttpRequest:
    """`http_request` as it came: the head is a JSON object, the body any bytes."""

    method: str
    target: str
    headers: list[tuple[bytes, bytes]]
    body: bytes
    # Bytes of the response's body that may be sent before they are acknowledged; None: no limit.
    window: int | None = None

    @classmethod
    def parse(cls, head: dict[str, Any], body: bytes) -> HttpRequest:
        """Check a head; raises InvalidRequestError."""
        method, target, headers = head.get("method"), head.get("path"), head.get("headers", [])
        window = head.get("window")
        if not isinstance(method, str) or not method:
            raise InvalidRequestError(f"http_request: 'method' must be a string, got {method!r}")
        if not isinstance(target, str) or not target.startswith("/"):
            raise InvalidRequestError(f"http_request: 'path' must start with '/', got {target!r}")
        if window is not None and (type(window) is not int or window < 1):
            raise InvalidRequestError(f"http_request: 'window' must be a number of bytes, got {window!r}")
        try:
            pairs = [(name.lower().encode("latin-1"), value.encode("latin-1")) for name, value in headers]
            target.encode("ascii")
        except (AttributeError, TypeError, ValueError) as failure:
            raise InvalidRequestError(
                f"http_request: 'headers' must be pairs of strings and 'path' ASCII: {failure}"
            ) from failure
        return cls(method.upper(), target, pairs, body, window)

    def scope(self) -> dict[str, Any]:
        """The connection scope (ASGI 3.0, HTTP sub-specification 2.3).

        From 2.4 on, a server reports a client that is gone by an error of `send`; up to 2.3 by `http.disconnect` alone,
        which reaches an application that waits for the engine too.
        """
        path, _, query = self.target.partition("?")
        return {
            "type": "http",
            "asgi": {"version": "3.0", "spec_version": "2.3"},
            "http_version": "1.1",
            "method": self.method,
            "scheme": "http",
            "path": unquote(path),
            "raw_path": path.encode("ascii"),
            "query_string": query.encode("ascii"),
            "root_path": "",
            "headers": self.headers,
            "client": ("127.0.0.1", 0),
            "server": ("127.0.0.1", 80),
            "state": {},
        }


class HttpCall:
    """One request to the application. Runs on the engine's loop."""

    def __init__(self, request: HttpRequest, send: Send) -> None:
        self._request = request
        self._send_parts = send
        self._body_taken = False
        self._gone = asyncio.Event()
        self._head: bytes | None = None
        self._started = False
        self._finished = False
        self._unread = 0
        self._room = asyncio.Event()

    async def run(self, application: Any) -> None:
        """Call the application and send its response. Raises what the application raised before it had answered.

        When the calling task is cancelled, the application gets a disconnect, and this waits until it ends.
        """
        task = asyncio.ensure_future(application(self._request.scope(), self._receive, self._send))
        try:
            await asyncio.shield(task)
        except asyncio.CancelledError:
            self._disconnect()
            await _end(task)
            raise
        except Exception:
            if not self._finished:
                raise
        if not self._finished:
            raise RuntimeError("the application returned without a complete response")

    def read(self, count: int) -> None:
        """The client has read `count` bytes of the body."""
        self._unread -= count
        self._room.set()

    def _disconnect(self) -> None:
        self._gone.set()
        self._room.set()

    # --- the application's side ----------------------------------------------------------------------------------

    async def _receive(self) -> Message:
        if not self._body_taken:
            self._body_taken = True
            return {"type": "http.request", "body": self._request.body, "more_body": False}
        await self._gone.wait()
        return {"type": "http.disconnect"}

    async def _send(self, message: Message) -> None:
        if self._gone.is_set() or self._finished:
            return
        if message["type"] == "http.response.start":
            headers = [(bytes(name), bytes(value)) for name, value in message.get("headers", [])]
            self._head = _encode_head(message["status"], headers)
            # A body of known length follows at once, so its head is sent with it. Otherwise the head is sent first.
            if not any(name.lower() == b"content-length" for name, _ in headers):
                await self._flush([], final=False)
        elif message["type"] == "http.response.body":
            body = bytes(message.get("body", b""))
            final = not message.get("more_body", False)
            if body or final:
                await self._flush([body] if body else [], final=final)

    async def _flush(self, parts: list[bytes], *, final: bool) -> None:
        window = self._request.window
        while window is not None and self._unread >= window and not final and not self._gone.is_set():
            self._room.clear()
            await self._room.wait()
        if self._gone.is_set():
            return
        self._unread += sum(map(len, parts))
        if self._head is not None:
            parts = [self._head, *parts]
            self._head = None
        self._finished = final
        await self._send_parts(parts, final)


def _encode_head(status: int, headers: list[tuple[bytes, bytes]]) -> bytes:
    pairs = [(name.decode("latin-1"), value.decode("latin-1")) for name, value in headers]
    return json.dumps({"status": status, "headers": pairs}).encode()


# After a disconnect an application finishes within a step of the engine. This limit is for one that does not.
_END_SECONDS = 5.0


async def _end(task: asyncio.Future[None]) -> None:
    await asyncio.wait([task], timeout=_END_SECONDS)
    if not task.done():
        task.cancel()
        await asyncio.wait([task], timeout=_END_SECONDS)
    if task.done() and not task.cancelled():
        # The exception is retrieved, so that asyncio does not report it.
        task.exception()
