"""vLLM's outputs of one request, from where they are made to where they are sent, without a task switch for each."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from tritonode.contract.responses import ResponseState
from tritonode.vllm.api import STREAM_FINISHED

from .senders import Sender


class Outlet:
    """Makes responses, or entries of a channel, of a request's outputs. Lives on the engine's loop."""

    def __init__(self, sender: Sender, state: ResponseState, pb_utils: Any, *, stream: bool) -> None:
        self._sender = sender
        self._state = state
        self._pb_utils = pb_utils
        self._stream = stream
        self._behind = False

    def take_in(self, output: Any) -> None:
        """Note a `RequestOutput`, and send what is to be sent now."""
        self._state.add(output)
        if not self._stream and not output.finished:
            return
        way = self._sender.channel or self._sender
        if output.finished or not way.is_full:
            self._send(final=output.finished)
        elif not self._behind:
            # The next response brings what has come until then.
            self._behind = True
            way.when_room(self._catch_up)

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


async def run_request(
    llm: Any,
    prompt: Any,
    sampling: Any,
    request_id: str,
    *,
    lora_request: Any,
    priority: int,
    on_output: Callable[[Any], None],
) -> None:
    """`AsyncLLM.generate` for one who wants to be called with each output instead of being woken for it.

    Returns when the request has finished; cancelled, it takes the request out of vLLM. Raises what vLLM raises.
    """
    done: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def put(output: Any) -> None:
        if done.done():
            return
        if isinstance(output, Exception):
            done.set_exception(output)
            return
        try:
            if output is not STREAM_FINISHED:
                on_output(output)
            if output.finished:
                done.set_result(None)
        except Exception as failure:
            done.set_exception(failure)

    collector = await llm.add_request(request_id, prompt, sampling, lora_request=lora_request, priority=priority)
    try:
        early = collector.get_nowait()
        collector.put = put
        if early is not None:
            put(early)
        await done
    except BaseException:
        if not llm.errored:
            await llm.abort(collector.request_id, internal=True)
        raise
    finally:
        collector.close()
