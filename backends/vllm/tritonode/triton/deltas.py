"""A host's channel: the deltas of all its streams, written to a FIFO together, once per step of the engine.

A Triton response for every token of every request costs more than a step of a small model, because threads of both
processes wake each other for each response. A tritonode host therefore opens a channel, which is a request that stays
open (the parameter `OPEN_CHANNEL` of contract/requests.py). It is answered when the FIFO of that name exists in the
host's private folder. Requests that name the channel (`CHANNEL`) send their deltas there and end with an empty FINAL
response. Errors are sent as to every other client.

A line is a JSON list of entries `[token, final, ...]`: the token is the request's own (`CANCEL_TOKEN`), `final`
is 1 on its last entry, and the rest is what `ResponseState.take_entry` (contract/responses.py) or `send_http`
(triton/http_response.py) made.
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

# The bytes that the pipe holds while the host's event loop is busy (Linux allows an unprivileged pipe this much), and
# the bytes that are buffered here before producers wait.
_PIPE_BYTES = 1 << 20
_BUFFER_BYTES = 1 << 20


class DeltaChannel(asyncio.BaseProtocol):
    """One host's channel. Runs on the engine's loop."""

    def __init__(self) -> None:
        self._entries: list[list[Any]] = []
        self._listeners: list[Callable[[], None]] = []
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.WriteTransport | None = None
        # Whether the host has fallen so far behind that producers should merge their deltas and wait.
        self.is_full = False

    async def serve(self, name: str, sender: Sender, pb_utils: Any) -> None:
        """Create the FIFO, answer the request, and serve the FIFO until this task is cancelled.

        Raises InvalidRequestError for a client that is not a tritonode host.
        """
        directory = os.environ.get("TRITONODE_PRIVATE_DIR")
        if directory is None or not re.fullmatch(r"[\w-]+", name):
            # Only a tritonode host has such a folder: a client of a stock tritonserver must not create files.
            raise InvalidRequestError(f"no channel can be opened under the name {name!r:.80} here")
        path = os.path.join(directory, name)
        os.mkfifo(path, 0o600)
        try:
            # A FIFO can be opened for writing only if it is open for reading, so this process opens it for reading too.
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
            # The host removes the name as soon as it has opened the FIFO.
            with contextlib.suppress(FileNotFoundError):
                os.unlink(path)

    def add(self, entry: list[Any]) -> None:
        """Send an entry together with all others of this iteration of the loop."""
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
        # The host no longer reads. Producers that wait for room continue, and what they send is dropped.
        self.resume_writing()


def _encode(entries: list[list[Any]]) -> bytes:
    try:
        return msgspec.json.encode(entries)
    except UnicodeEncodeError:
        # A lone surrogate in one of the texts must not make the others fail.
        return msgspec.json.encode(_well_formed(entries))


def _well_formed(value: Any) -> Any:
    if isinstance(value, str):
        return well_formed(value)
    return [_well_formed(each) for each in value] if isinstance(value, list) else value
