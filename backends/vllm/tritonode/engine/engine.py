"""vLLM's `AsyncLLM` on an asyncio loop in a separate thread, with the engine core in this process."""

from __future__ import annotations

import asyncio
import contextlib
import os
import threading
from collections.abc import Callable, Coroutine
from concurrent.futures import Future
from typing import Any

from tritonode.ranks import failure
from tritonode.vllm.arguments import AsyncEngineArgs
from tritonode.vllm.engine import AsyncLLM, Executor, UsageContext, VllmConfig, async_client, fail_request
from tritonode.vllm.platform import is_cpu
from tritonode.vllm.requests import SamplingParams
from tritonode.vllm.tokenizing import tokenize_short_prompts_here

from . import no_network
from .client import InProcessAsyncClient
from .guard import refuse_fatal_requests
from .llm import ReasonedLlm
from .loop_client import LoopClient
from .settings import EngineSettings
from .thread_client import ThreadClient


class Engine:
    """Owns the loop thread and the engine. `start` and `stop` are called from Triton's thread.

    `llm` is vLLM's own `AsyncLLM`, to be used on `loop` only.
    """

    def __init__(self, settings: EngineSettings, stat_loggers: list[Any], report: Callable[..., None]) -> None:
        self._settings = settings
        self._stat_loggers = stat_loggers
        self._report = report
        self.loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run_loop, name="vllm-asyncio", daemon=True)
        self._llm: AsyncLLM | None = None

    @property
    def llm(self) -> AsyncLLM:
        if self._llm is None:
            raise RuntimeError("the engine is not started")
        return self._llm

    @property
    def client(self) -> InProcessAsyncClient:
        return self.llm.engine_core  # type: ignore[return-value]

    def _run_loop(self) -> None:
        asyncio.set_event_loop(self.loop)
        self.loop.run_forever()

    def call(self, coroutine: Coroutine[Any, Any, Any]) -> Future[Any]:
        """Run a coroutine on the engine's loop from another thread."""
        return asyncio.run_coroutine_threadsafe(coroutine, self.loop)

    def start(self) -> None:
        """Build the engine. Raises vLLM's error if that fails."""
        self._thread.start()
        try:
            self.call(self._build()).result()
        except BaseException:
            self._stop_loop()
            raise

    async def _build(self) -> None:
        if self._settings.world_size == 1:
            no_network.install()
        args = AsyncEngineArgs(**self._settings.engine_args)
        config = args.create_engine_config(UsageContext.ENGINE_CONTEXT)
        self._report("load-model")
        with async_client(make_client), failure.named():
            self._llm = ReasonedLlm.from_vllm_config(
                config,
                usage_context=UsageContext.ENGINE_CONTEXT,
                stat_loggers=self._stat_loggers or None,
                # vLLM's own loggers would write a log line and a Prometheus sample for each step, which nothing reads.
                disable_log_stats=True,
            )
        tokenize_short_prompts_here(self._llm.renderer)
        refuse_fatal_requests(self._llm)
        self.client.on_request_failure = self._fail_request

    def _fail_request(self, request_id: str, failure: Exception) -> None:
        """Pass an error to its request, which then aborts itself in vLLM."""
        fail_request(self.llm, request_id, failure)

    async def warm_up(self, lora_requests: list[Any]) -> None:
        """Generate a few tokens on the base model and on each given adapter, because the first request is slow."""
        if "generate" not in await self.llm.get_supported_tasks():
            return
        vocabulary = min(97, self.llm.model_config.get_vocab_size())
        # As much as the shortest `max_model_len` that a user can choose has room for.
        room = self.llm.model_config.max_model_len
        answer = max(1, min(4, room - 1))
        prompt = [position % vocabulary for position in range(1, 1 + min(16, room - answer))]
        if not prompt:
            return
        # With `max_logprobs` 0 a request may ask for the chosen token's log probability only.
        logprobs = 0 if self.llm.model_config.max_logprobs == 0 else 1
        greedy = SamplingParams(temperature=0.0, max_tokens=answer, min_tokens=answer)
        sampled = SamplingParams(
            temperature=0.8, top_p=0.9, top_k=20, seed=0, logprobs=logprobs, max_tokens=answer, min_tokens=answer
        )
        runs = [(greedy, None), (sampled, None), *((greedy, lora_request) for lora_request in lora_requests)]

        async def run(position: int, params: SamplingParams, lora_request: Any) -> None:
            async for _ in self.llm.generate(prompt, params, f"warm-up-{position}", lora_request=lora_request):
                pass

        # Concurrently, so that a mixed batch has run once.
        await asyncio.gather(*(run(position, *each) for position, each in enumerate(runs)))
        await self.llm.reset_prefix_cache()

    def kv_cache(self) -> dict[str, Any]:
        """Return the size of the KV cache that the engine chose."""
        config = self.llm.vllm_config
        blocks = config.cache_config.num_gpu_blocks or 0
        return {
            "tokens": blocks * config.cache_config.block_size,
            "bytes": config.cache_config.kv_cache_memory_bytes,
            "max_model_len": config.model_config.max_model_len,
        }

    def stop(self) -> None:
        """Shut the engine, its workers and the loop down."""
        try:
            if self._llm is not None:
                self.call(self._shutdown()).result()
        finally:
            self._stop_loop()

    async def _shutdown(self) -> None:
        self.llm.shutdown()

    def _stop_loop(self) -> None:
        self.loop.call_soon_threadsafe(self.loop.stop)
        if self._thread.is_alive():
            self._thread.join(10)


def make_client(vllm_config: VllmConfig, executor_class: type[Executor], log_stats: bool) -> InProcessAsyncClient:
    """Return the client for the device. Call it on the asyncio loop that will use it. Blocks until the core is built.

    TRITONODE_ENGINE_CLIENT=thread takes the one of a GPU on a CPU too, to measure and test it (`npm run check:gpu`).
    """
    on_loop = is_cpu() and vllm_config.parallel_config.world_size == 1
    if os.environ.get("TRITONODE_ENGINE_CLIENT") == "thread":
        on_loop = False
    return (LoopClient if on_loop else ThreadClient)(vllm_config, executor_class, log_stats)


def available_memory() -> int:
    """Return the bytes of memory that this process may still allocate, by the machine and its control group."""
    import psutil

    available = int(psutil.virtual_memory().available)
    with contextlib.suppress(OSError, ValueError):
        with open("/sys/fs/cgroup/memory.max", encoding="ascii") as file:
            limit = file.read().strip()
        with open("/sys/fs/cgroup/memory.current", encoding="ascii") as file:
            current = int(file.read())
        if limit != "max":
            available = min(available, int(limit) - current)
    return max(available, 0)
