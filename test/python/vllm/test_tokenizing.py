"""Short prompts are tokenised on the loop, long ones on vLLM's thread, and never both at once."""

from __future__ import annotations

import asyncio
import os
import threading
from typing import Any

import pytest

os.environ.setdefault("HF_HUB_OFFLINE", "1")
pytest.importorskip("vllm")
from tritonode.vllm.arguments import AsyncEngineArgs
from tritonode.vllm.tokenizing import tokenize_short_prompts_here
from vllm.renderers import renderer_from_config
from vllm.renderers.inputs.preprocess import parse_model_prompt

SHORT = [f"Hello, my name is number {number}" for number in range(40)]
LONG = [f"{number} wizards mix a potion. " * 400 for number in range(10)]


class Recorder:
    """A real renderer of the tiny model, and where its tokenizer was called."""

    def __init__(self, model: str) -> None:
        self.config = AsyncEngineArgs(model=model, enforce_eager=True).create_engine_config()
        self.renderer: Any = renderer_from_config(self.config)
        self.expected = {prompt: self.render(prompt) for prompt in (*SHORT, *LONG)}
        self.handed_over = 0
        self.submit = self.renderer._executor.submit
        self.threads = max(1, self.config.model_config.renderer_num_workers)

        def counted(*args: Any, **kwargs: Any) -> Any:
            self.handed_over += 1
            return self.submit(*args, **kwargs)

        self.renderer._executor.submit = counted
        tokenize_short_prompts_here(self.renderer)

    def parsed(self, prompt: str) -> Any:
        return parse_model_prompt(self.config.model_config, prompt)

    @property
    def params(self) -> Any:
        return self.renderer.default_cmpl_tok_params.with_kwargs(truncate_prompt_tokens=500)

    def render(self, prompt: str) -> list[int]:
        (rendered,) = self.renderer.render_cmpl([self.parsed(prompt)], self.params)
        return list(rendered["prompt_token_ids"])

    async def render_async(self, prompt: str) -> list[int]:
        (rendered,) = await self.renderer.render_cmpl_async([self.parsed(prompt)], self.params)
        return list(rendered["prompt_token_ids"])


@pytest.fixture
def recorder(fixtures: dict[str, Any]) -> Any:
    recorder = Recorder(fixtures["models"]["tiny"])
    yield recorder
    recorder.renderer.shutdown()


def test_short_prompts_do_not_meet_a_thread(recorder: Recorder) -> None:
    async def run() -> list[list[int]]:
        return await asyncio.gather(*(recorder.render_async(prompt) for prompt in SHORT))

    assert asyncio.run(run()) == [recorder.expected[prompt] for prompt in SHORT]
    assert recorder.handed_over == 0


def test_while_a_thread_has_a_long_one_the_short_ones_wait_their_turn(recorder: Recorder) -> None:
    prompts = [prompt for pair in zip(LONG, SHORT, strict=False) for prompt in pair]

    async def run() -> list[list[int]]:
        return await asyncio.gather(*(recorder.render_async(prompt) for prompt in prompts))

    assert asyncio.run(run()) == [recorder.expected[prompt] for prompt in prompts]
    assert recorder.handed_over == len(prompts)


def test_a_cancelled_long_one_still_counts(recorder: Recorder) -> None:
    # All threads of the pool are held up, so that the long one can't be through before the short one comes.
    go_on = threading.Event()
    for _ in range(recorder.threads):
        recorder.submit(go_on.wait)

    async def run() -> list[int]:
        long = asyncio.create_task(recorder.render_async(LONG[0]))
        while recorder.handed_over == 0:
            await asyncio.sleep(0)
        long.cancel()
        with pytest.raises(asyncio.CancelledError):
            await long
        short = asyncio.create_task(recorder.render_async(SHORT[0]))
        while not short.done() and recorder.handed_over < 2:
            await asyncio.sleep(0)
        go_on.set()
        return await short

    try:
        assert asyncio.run(run()) == recorder.expected[SHORT[0]]
    finally:
        go_on.set()
    assert recorder.handed_over == 2
