"""Sends the outputs of a request as vLLM makes them: as responses of Triton, or through the host's FIFO."""

from __future__ import annotations

from typing import Any

from tritonode.contract.responses import ResponseState

from .senders import Sender


class OutputSender:
    """Turns a request's outputs into responses, or into entries of a channel. Runs on the engine's loop."""

    def __init__(self, sender: Sender, state: ResponseState, pb_utils: Any, *, stream: bool) -> None:
        self._sender = sender
        self._state = state
        self._pb_utils = pb_utils
        self._stream = stream
        self._behind = False

    def add(self, output: Any) -> None:
        """Add a `RequestOutput`, and send what can be sent now."""
        self._state.add(output)
        if not self._stream and not output.finished:
            return
        route = self._sender.channel or self._sender
        if output.finished or not route.is_full:
            self._send(final=output.finished)
        elif not self._behind:
            # The next response holds everything that has arrived by then.
            self._behind = True
            route.when_room(self._catch_up)

    def _catch_up(self) -> None:
        if self._behind:
            self._send(final=False)

    def _send(self, *, final: bool) -> None:
        self._behind = False
        sender = self._sender
        if sender.closed:
            return
        if self._stream and sender.channel is not None:
            sender.put_entry(sender.channel, self._state.take_entry(), final=final)
        else:
            tensors = self._state.take(self._pb_utils)
            sender.put(self._pb_utils.InferenceResponse(output_tensors=tensors), final=final)
