"""The engine of this process: requests that fail, calls that come too late, an engine that sleeps."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Iterator
from typing import Any

import pytest

os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"
os.environ.setdefault("VLLM_CPU_OMP_THREADS_BIND", "nobind")
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("VLLM_LOGGING_LEVEL", "WARNING")

pytest.importorskip("vllm")
from tritonode.engine import environment

environment.prepare()
environment.prepare_vllm()

from tritonode.contract.responses import ResponseState  # noqa: E402
from tritonode.engine import engine as engine_module  # noqa: E402
from tritonode.engine.client import InProcessAsyncClient  # noqa: E402
from tritonode.engine.engine import Engine  # noqa: E402
from tritonode.engine.loop_client import LoopClient  # noqa: E402
from tritonode.engine.run_request import run_request  # noqa: E402
from tritonode.engine.settings import EngineSettings  # noqa: E402
from tritonode.engine.thread_client import ThreadClient  # noqa: E402
from tritonode.errors import BackendError  # noqa: E402
from tritonode.vllm.engine import EngineCoreOutput, EngineCoreOutputs, EngineDeadError, FinishReason  # noqa: E402
from tritonode.vllm.requests import SamplingParams, VLLMValidationError  # noqa: E402

WAIT = 20


def start(fixtures: dict[str, Any], client: type[InProcessAsyncClient], **args: Any) -> Engine:
    """Start an engine of the tiny model on a client of that class."""
    settings = EngineSettings(
        {
            "model": fixtures["models"]["tiny"],
            "dtype": "float32",
            "max_model_len": 256,
            "kv_cache_memory_bytes": 32 << 20,
            "enforce_eager": True,
            **args,
        },
        enable_lora=False,
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(engine_module, "make_client", client)
        engine = Engine(settings, [], lambda *_, **__: None)
        engine.start()
    return engine


@pytest.fixture(scope="module", params=[LoopClient, ThreadClient], ids=["on the loop", "on a thread"])
def engine(request: pytest.FixtureRequest, fixtures: dict[str, Any]) -> Iterator[Engine]:
    engine = start(fixtures, request.param)
    yield engine
    engine.stop()


def run(engine: Engine, scenario: Any) -> Any:
    return engine.call(asyncio.wait_for(scenario, WAIT)).result()


async def generate(engine: Engine, outputs: list[Any] | None = None, name: str = "a", **params: Any) -> list[Any]:
    """Serve one request as the backend does; returns its outputs."""
    outputs = [] if outputs is None else outputs
    sampling = SamplingParams(**{"max_tokens": 4, "ignore_eos": True, **params})
    state = ResponseState(frozenset(), sampling.n)

    def take(output: Any) -> None:
        outputs.append(output)
        state.add(output)

    await run_request(engine.llm, [1, 2, 3], sampling, name, lora_request=None, priority=0, on_output=take)
    return outputs


def known_requests(engine: Engine) -> list[Any]:
    processor = engine.llm.output_processor
    return [*processor.request_states, *processor.parent_requests, *processor.external_req_ids]


def test_a_request_that_vllm_ends_with_an_error_is_an_error(engine: Engine) -> None:
    async def scenario() -> None:
        outputs: list[Any] = []
        task = asyncio.create_task(generate(engine, outputs, max_tokens=200))
        while not outputs and not engine.llm.output_processor.request_states:
            await asyncio.sleep(0)
        (internal,) = engine.llm.output_processor.request_states
        # What the scheduler hands out for a request whose KV cache could not be loaded.
        failed = EngineCoreOutput(request_id=internal, new_token_ids=[], finish_reason=FinishReason.ERROR)
        engine.client._publish(EngineCoreOutputs(outputs=[failed], finished_requests={internal}))
        with pytest.raises(BackendError, match="vLLM ended the request with an error"):
            await task
        # The real one would not be running any more.
        await engine.client.abort_requests_async([internal])

    run(engine, scenario())
    assert known_requests(engine) == []


@pytest.mark.parametrize("n", [1, 2])
def test_a_request_that_cannot_be_prepared_fails_alone_and_says_why(
    engine: Engine, monkeypatch: pytest.MonkeyPatch, n: int
) -> None:
    def break_preparing(core: Any) -> Callable[..., Any]:
        prepare = core.preprocess_add_request

        def broken(request: Any) -> Any:
            if request.sampling_params.seed == 13:
                raise RuntimeError("no grammar for thirteen")
            return prepare(request)

        monkeypatch.setattr(core, "preprocess_add_request", broken)
        return broken

    async def scenario() -> list[list[Any]]:
        await engine.client.call(break_preparing)
        good = asyncio.create_task(generate(engine))
        with pytest.raises(RuntimeError, match="no grammar for thirteen"):
            await generate(engine, seed=13, n=n)
        with pytest.raises(Exception) as failure:
            async for _ in engine.llm.generate([1, 2], SamplingParams(seed=13, n=n), "by vLLM's own generate"):
                pass
        assert "no grammar for thirteen" in str(failure.value.__cause__)
        return await good

    assert run(engine, scenario())
    assert known_requests(engine) == []


@pytest.mark.parametrize("n", [1, 2])
def test_a_refused_request_leaves_nothing_behind(engine: Engine, n: int) -> None:
    async def scenario() -> None:
        for _ in range(3):
            with pytest.raises(VLLMValidationError, match="seed must be"):
                await generate(engine, seed=2**70, n=n)
            with pytest.raises(VLLMValidationError, match="seed must be"):
                async for _ in engine.llm.generate([1, 2], SamplingParams(seed=2**70, n=n), "by vLLM's own generate"):
                    pass

    run(engine, scenario())
    assert known_requests(engine) == []


def test_a_sleeping_engine_ends_its_requests_and_serves_again(engine: Engine) -> None:
    async def scenario() -> list[Any]:
        outputs: list[Any] = []
        task = asyncio.create_task(generate(engine, outputs, max_tokens=200))
        while not outputs:
            await asyncio.sleep(0.001)
        await engine.llm.sleep(level=0)
        await asyncio.wait_for(task, 5)
        assert outputs[-1].outputs[0].finish_reason == "abort"
        await engine.llm.wake_up(["scheduling"])
        return await generate(engine)

    assert run(engine, scenario())[-1].outputs[0].finish_reason == "length"
    assert known_requests(engine) == []


def test_pausing_ends_the_requests_too(engine: Engine) -> None:
    async def scenario() -> None:
        outputs: list[Any] = []
        task = asyncio.create_task(generate(engine, outputs, max_tokens=200))
        while not outputs:
            await asyncio.sleep(0.001)
        await engine.llm.pause_generation(mode="abort")
        await asyncio.wait_for(task, 5)
        assert outputs[-1].outputs[0].finish_reason == "abort"
        await engine.llm.resume_generation()

    run(engine, scenario())


@pytest.mark.parametrize("limits", [{"max_logprobs": 0}, {"max_model_len": 4}], ids=["logprobs", "length"])
def test_warming_up_where_little_is_allowed(fixtures: dict[str, Any], limits: dict[str, Any]) -> None:
    engine = start(fixtures, LoopClient, **limits)
    try:
        run(engine, engine.warm_up([]))
    finally:
        engine.stop()


class LateClient(ThreadClient):
    """Whose engine dies between the look whether it is alive and the call that follows."""

    kill = False

    def _ensure_alive(self) -> None:
        super()._ensure_alive()
        if self.kill:
            self._inbox.put(_die)
            self._thread.join()


def _die(core: Any) -> None:
    raise RuntimeError("the test broke the engine")


def test_a_call_that_is_queued_after_the_engine_died_fails(fixtures: dict[str, Any]) -> None:
    engine = start(fixtures, LateClient)
    try:
        engine.client.kill = True  # type: ignore[attr-defined]

        async def scenario() -> None:
            with pytest.raises(EngineDeadError):
                await asyncio.wait_for(engine.client.call(lambda core: 1), 10)

        run(engine, scenario())
    finally:
        engine.stop()


def test_a_call_that_is_queued_after_the_engine_was_stopped_fails(fixtures: dict[str, Any]) -> None:
    engine = start(fixtures, ThreadClient)

    async def scenario() -> None:
        engine.llm.shutdown()
        with pytest.raises(EngineDeadError):
            await asyncio.wait_for(engine.client.call(lambda core: 1), 10)

    try:
        run(engine, scenario())
    finally:
        engine.stop()
