"""The pieces of all streams of one host, sent together through a FIFO: one write for each step of the engine.

A response of Triton for every token of every request costs more than a small model's step: several threads of two
processes wake each other for each. A tritonode host therefore opens a channel: a request that stays open (the parameter
`OPEN_CHANNEL` of requests.py), answered once the FIFO of that name is there, in the host's private directory. Requests
that name the channel (`CHANNEL`) send their pieces there and end with an empty FINAL response; errors come as they do
for every other client.

A line is a JSON list of entries `[token, final, ...]`: the token is the request's own (`CANCEL_TOKEN`), `final`
is 1 on its last entry, and the rest is the producer's: ResponseState.take_entry in responses.py, HttpDoor in asgi.py.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import re
from collections.abc import Callable
from typing import Any

import msgspec

from tritonode.contract.responses import text_response
from tritonode.errors import InvalidRequestError, well_formed

from .senders import Sender

# A host whose event loop is busy leaves this much unread before the engine's loop keeps the rest (bytes; Linux allows
# an unprivileged pipe as much), and this much is kept before producers wait.
_PIPE_BYTES = 1 << 20
_BUFFER_BYTES = 1 << 20


class DeltaChannel(asyncio.BaseProtocol):
    """One host's channel. Lives on the engine's loop."""

    def __init__(self) -> None:
        self._entries: list[list[Any]] = []
        self._listeners: list[Callable[[], None]] = []
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.WriteTransport | None = None
        # Whether the host is so far behind that producers should join their pieces and wait.
        self.is_full = False

    async def serve(self, name: str, sender: Sender, pb_utils: Any) -> None:
        """Make the FIFO, say so, and serve it until this task is cancelled. Raises InvalidRequestError."""
        directory = os.environ.get("TRITONODE_PRIVATE_DIR")
        if directory is None or not re.fullmatch(r"[\w-]+", name):
            # Only a host has such a directory: a client of a stock tritonserver must not make files.
            raise InvalidRequestError(f"no channel can be opened under the name {name!r:.80} here")
        path = os.path.join(directory, name)
        os.mkfifo(path, 0o600)
        try:
            # With an end of its own for reading, a FIFO can be opened for writing before the host has opened it.
            with open(os.open(path, os.O_RDONLY | os.O_NONBLOCK), "rb", buffering=0):
                pipe = open(os.open(path, os.O_WRONLY | os.O_NONBLOCK), "wb", buffering=0)  # noqa: SIM115
                with contextlib.suppress(OSError):
                    fcntl.fcntl(pipe, fcntl.F_SETPIPE_SZ, _PIPE_BYTES)
                self._transport, _ = await self._loop.connect_write_pipe(lambda: self, pipe)
                self._transport.set_write_buffer_limits(high=_BUFFER_BYTES)
                sender.put(text_response(pb_utils, ""), final=False)
                await asyncio.Event().wait()
        finally:
            if self._transport is not None:
                self._transport.abort()
            # The host removes the name as soon as it has opened it.
            with contextlib.suppress(FileNotFoundError):
                os.unlink(path)

    def add(self, entry: list[Any]) -> None:
        """Send an entry together with all others of this turn of the loop."""
        if not self._entries:
            self._loop.call_soon(self._flush)
        self._entries.append(entry)

    def _flush(self) -> None:
        entries, self._entries = self._entries, []
        if self._transport is not None and not self._transport.is_closing():
            self._transport.write(_encode(entries) + b"\n")

    def when_room(self, listener: Callable[[], None]) -> None:
        """Call `listener` once when the host has caught up."""
        self._listeners.append(listener)

    async def room(self) -> None:
        """Wait while the channel is full."""
        while self.is_full:
            ready = asyncio.Event()
            self.when_room(ready.set)
            await ready.wait()

    # --- asyncio.BaseProtocol ------------------------------------------------------------------------------------

    def pause_writing(self) -> None:
        self.is_full = True

    def resume_writing(self) -> None:
        self.is_full = False
        listeners, self._listeners = self._listeners, []
        for listener in listeners:
            listener()

    def connection_lost(self, exc: Exception | None) -> None:
        # Nobody reads any more: what waits for room may go on, into the void, until it is cancelled.
        self.resume_writing()


def _encode(entries: list[list[Any]]) -> bytes:
    try:
        return msgspec.json.encode(entries)
    except UnicodeEncodeError:
        # A lone surrogate in one of the texts must not cost the others theirs.
        return msgspec.json.encode(_well_formed(entries))


def _well_formed(value: Any) -> Any:
    if isinstance(value, str):
        return well_formed(value)
    return [_well_formed(each) for each in value] if isinstance(value, list) else value
