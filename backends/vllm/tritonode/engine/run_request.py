"""One request on vLLM's engine, without a task switch for each of its outputs."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from tritonode.vllm.requests import STREAM_FINISHED


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
    """`AsyncLLM.generate` with a callback for each output instead of a task switch.

    Returns when the request has finished. If it is cancelled, it aborts the request in vLLM. Raises what vLLM raises.
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
