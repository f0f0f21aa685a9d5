"""Short prompts are tokenised on the loop: to hand one to a thread and wait takes longer than the work."""

from __future__ import annotations

import asyncio
from typing import Any

# A tenth of a millisecond or so.
_MOST_CHARACTERS = 1024


def tokenize_short_prompts_here(renderer: Any) -> None:
    """Let vLLM's renderer hand only long prompts to its thread.

    A tokenizer must not be used from two threads at once (it fails with "Already borrowed"), so nothing is tokenised
    here while a thread has something.
    """
    hand_over = renderer._tokenize_prompt_async
    handed_over: set[asyncio.Task[Any]] = set()

    def ended(task: asyncio.Task[Any]) -> None:
        handed_over.discard(task)
        if not task.cancelled():
            task.exception()  # looked at, so that asyncio does not complain when the request was cancelled

    async def tokenize(prompt: Any, params: Any) -> Any:
        if not handed_over and len(prompt["prompt"]) <= _MOST_CHARACTERS:
            return renderer._tokenize_prompt(prompt, params)
        task = asyncio.ensure_future(hand_over(prompt, params))
        handed_over.add(task)
        task.add_done_callback(ended)
        # Shielded: the thread goes on when the request is cancelled.
        return await asyncio.shield(task)

    renderer._tokenize_prompt_async = tokenize
