"""The pieces of all streams of one host, sent together: a message for each step of the engine, not for each token.

A response of its own for every token of every request costs more than a small model's step. A tritonode host opens one
request that stays open (the parameter `OPEN_CHANNEL` of requests.py) and names it in its other requests (`CHANNEL`):
their pieces then go out as responses of that one, and they themselves end with an empty FINAL response. Errors, and
everything that is not a stream, come as they do for every other client.

`text_output` of such a response is one element: a JSON list of entries `[token, final, ...]`, in which the token is the
request's own (`CANCEL_TOKEN`), `final` is 1 on its last entry, and the rest is the producer's: ResponseState.take_entry
in responses.py, HttpDoor in asgi.py.
"""

from __future__ import annotations

import asyncio
from typing import Any

import msgspec

from .responses import text_response
from .senders import Sender


class DeltaChannel:
    """One host's channel. Lives on the engine's loop."""

    def __init__(self, sender: Sender, pb_utils: Any) -> None:
        self._sender = sender
        self._pb_utils = pb_utils
        self._entries: list[list[Any]] = []
        self._loop = asyncio.get_running_loop()

    def add(self, entry: list[Any]) -> None:
        """Send an entry together with all others of this turn of the loop."""
        if not self._entries:
            self._loop.call_soon(self._flush)
        self._entries.append(entry)

    def _flush(self) -> None:
        entries, self._entries = self._entries, []
        self._sender.put(text_response(self._pb_utils, _encode(entries)), final=False)

    async def serve(self) -> None:
        """Say that the channel is open, and wait to be cancelled."""
        self._sender.put(text_response(self._pb_utils, b"[]"), final=False)
        await asyncio.Event().wait()


def _encode(entries: list[list[Any]]) -> bytes:
    try:
        return msgspec.json.encode(entries)
    except UnicodeEncodeError:
        # A lone surrogate in one of the texts must not cost the others theirs.
        return msgspec.json.encode(_well_formed(entries))


def _well_formed(value: Any) -> Any:
    if isinstance(value, str):
        return value.encode("utf-8", "replace").decode("utf-8")
    return [_well_formed(each) for each in value] if isinstance(value, list) else value
