"""Sends responses to Triton, and asks Triton which requests were cancelled.

Both are round trips through shared memory that block the calling thread, so neither happens on the asyncio loop.
"""

from __future__ import annotations

import asyncio
import queue
import threading
import time
import traceback
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from tritonode.errors import BackendError, well_formed

if TYPE_CHECKING:
    from .deltas import DeltaChannel

# Responses of one request that may be queued. When there are more, its producer waits, and vLLM merges the deltas.
_MAX_WAITING = 64
# Whether a request was cancelled has to be polled, with a round trip for each request: this many, then a pause.
# (A tritonode host sends its cancellations itself, see `cancel` in control.py. Polling is for every other client.)
_POLL_AT_ONCE = 16
_POLL_PAUSE_SECONDS = 0.01
# The interval for requests of a tritonode host.
_SLOW_POLL_SECONDS = 1.0


class Sender:
    """Sends the responses of one request. For the asyncio loop, unless a method says otherwise."""

    def __init__(self, writer: ResponseWriter, triton_sender: Any) -> None:
        self.closed = False
        # The channel that the deltas go to, and the request's name in it, if the host opened one (deltas.py).
        self.channel: DeltaChannel | None = None
        self.token = ""
        self._triton_sender = triton_sender
        # Triton frees a request's state with the FINAL response. Asking about the request afterwards crashes Triton
        # (24.10, TRITONBACKEND_ResponseFactoryIsCancelled), so the two must exclude each other.
        self._lock = threading.Lock()
        self._final_sent = False
        self._writer = writer
        self._waiting = 0
        self._room: Callable[[], None] | None = None

    def put(self, response: Any, *, final: bool) -> None:
        """Queue a response; None ends the request without one."""
        if self.closed:
            return
        self.closed = final
        self._waiting += 1
        self._writer.put(self, response, final)

    def put_entry(self, channel: DeltaChannel, entry: list[Any], *, final: bool) -> None:
        """Send a delta through the channel; the request itself ends without a response."""
        if self.closed:
            return
        channel.add([self.token, int(final), *entry])
        if final:
            self.put(None, final=True)

    @property
    def is_full(self) -> bool:
        """Whether so many responses are queued that the producer should wait."""
        return self._waiting >= _MAX_WAITING

    def when_room(self, listener: Callable[[], None]) -> None:
        """Call `listener` once when the next response has been sent."""
        self._room = listener

    async def send(self, response: Any, *, final: bool) -> None:
        """Queue a response. Waits while too many responses of this request are queued."""
        while self.is_full and not final and not self.closed:
            room = asyncio.Event()
            self.when_room(room.set)
            await room.wait()
        self.put(response, final=final)

    def write(self, response: Any, flags: int, *, final: bool) -> None:
        """Pass a response to Triton; blocks until Triton has it. For the writer's thread."""
        if not final:
            self._triton_sender.send(response, flags)
            return
        with self._lock:
            self._final_sent = True
            if response is None:
                self._triton_sender.send(flags=flags)
            else:
                self._triton_sender.send(response, flags)

    def is_cancelled(self) -> bool:
        """Ask Triton whether the request was cancelled; blocks. For any thread but the loop's."""
        with self._lock:
            return not self._final_sent and bool(self._triton_sender.is_cancelled())

    def sent(self) -> None:
        """Called on the loop when a queued response has been sent."""
        self._waiting -= 1
        if self._room is not None:
            listener, self._room = self._room, None
            listener()


class ResponseWriter:
    """A thread that sends responses in order."""

    def __init__(self, loop: asyncio.AbstractEventLoop, pb_utils: Any) -> None:
        self._loop = loop
        self._flags_final = pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL
        self._queue: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="response-writer", daemon=True)
        self._thread.start()

    def put(self, sender: Sender, response: Any, final: bool) -> None:
        self._queue.put((sender, response, final))

    def _run(self) -> None:
        while (item := self._queue.get()) is not None:
            batch = [item]
            while not self._queue.empty():
                batch.append(self._queue.get())
            done = []
            stop = False
            for entry in batch:
                if entry is None:
                    stop = True
                    continue
                sender, response, final = entry
                try:
                    sender.write(response, self._flags_final if final else 0, final=final)
                except Exception:
                    traceback.print_exc()
                done.append(sender)
            try:
                self._loop.call_soon_threadsafe(_mark_sent, done)
            except RuntimeError:
                pass  # The loop is closed: nothing waits for this.
            if stop:
                return

    def close(self) -> None:
        """Send what is queued, then end the thread."""
        self._queue.put(None)
        self._thread.join()


def _mark_sent(senders: list[Sender]) -> None:
    for sender in senders:
        sender.sent()


class CancellationWatch:
    """A thread that asks Triton, for every running request, whether it was cancelled."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._watched: dict[Sender, Callable[[], None]] = {}
        self._slowly: dict[Sender, Callable[[], None]] = {}
        self._lock = threading.Lock()
        self._wake = threading.Event()
        self._stopped = False
        self._thread = threading.Thread(target=self._run, name="cancellation-watch", daemon=True)
        self._thread.start()

    def add(self, sender: Sender, on_cancel: Callable[[], None], *, slowly: bool = False) -> None:
        """`on_cancel` is called once, on the loop."""
        with self._lock:
            (self._slowly if slowly else self._watched)[sender] = on_cancel
            # Wakes the thread if it has nothing to poll. One that polls slowly notices another slow request in time.
            if not slowly or len(self._slowly) == 1:
                self._wake.set()

    def remove(self, sender: Sender) -> None:
        with self._lock:
            self._watched.pop(sender, None)
            self._slowly.pop(sender, None)

    def _run(self) -> None:
        asked_slowly = 0.0
        while not self._stopped:
            with self._lock:
                watched = list(self._watched.items())
                slowly = list(self._slowly.items())
                if not watched and not self._stopped:
                    self._wake.clear()
            if not watched:
                self._wake.wait(_SLOW_POLL_SECONDS if slowly else None)
            if time.monotonic() - asked_slowly >= _SLOW_POLL_SECONDS:
                asked_slowly = time.monotonic()
                watched += slowly
            for start in range(0, len(watched), _POLL_AT_ONCE):
                for sender, on_cancel in watched[start : start + _POLL_AT_ONCE]:
                    self._ask(sender, on_cancel)
                time.sleep(_POLL_PAUSE_SECONDS)

    def _ask(self, sender: Sender, on_cancel: Callable[[], None]) -> None:
        try:
            if not sender.is_cancelled():
                return
            self.remove(sender)
            self._loop.call_soon_threadsafe(on_cancel)
        except Exception:
            # The loop is closed, or Triton is shutting down.
            self.remove(sender)

    def close(self) -> None:
        with self._lock:
            self._stopped = True
            self._wake.set()
        self._thread.join(5)


def error_response(pb_utils: Any, failure: BaseException, message: str | None = None) -> Any:
    """An error response under the Triton code that the failure carries."""
    code = failure.code if isinstance(failure, BackendError) else "INTERNAL"
    # Triton refuses a message with a lone surrogate, which JSON can carry; the request would get no answer.
    error = pb_utils.TritonError(well_formed(message or str(failure)), getattr(pb_utils.TritonError, code))
    return pb_utils.InferenceResponse(error=error)
