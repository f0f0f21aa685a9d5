"""Adapters where two ranks run the model: as exact, as guarded, counted and pinned as where one does."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("vllm")
import serving
import tiny_models
from transformers import LlamaConfig
from tritonode.errors import BackendError, SettingsError
from tritonode.ranks import threads
from tritonode.ranks.server import RankServer
from tritonode.vllm import versions
from tritonode.vllm.executor import kill_ranks
from tritonode.vllm.requests import REQUEST_ERRORS

NAMES = ("a", "b", "c", "d")
CONFIG = "adapter_config.json"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("ranks")
    base = tiny_models.write_model(folder / "model", LlamaConfig(**tiny_models.SIZES))
    for seed, name in enumerate(NAMES):
        tiny_models.write_adapter(folder / name, base, seed=seed, target_modules=["q_proj", "v_proj", "down_proj"])
    return folder


@pytest.fixture(scope="module")
def served(folder: Path) -> Iterator[serving.Served]:
    RankServer.start()
    made = serving.Served(
        folder / "model",
        {name: folder / name for name in NAMES},
        tensor_parallel_size=2,
        max_loras=1,
        max_cpu_loras=2,
        worker_extension_cls="users_extension.UsersExtension",
    )
    yield made
    made.close()


def state(served: Any, name: str) -> str:
    return str(served.run(served.registry.describe(served.registry.get(name)))[0]["state"])


def ranks(served: Any) -> list[Any]:
    return [worker.proc for worker in served.engine.client.peek(lambda core: core.model_executor.workers, [])]


def test_ranks_are_forked_from_a_process_with_one_thread(served: Any) -> None:
    server = RankServer.running
    assert server is not None, "it has ended, or refused a fork"
    assert os.listdir(f"/proc/{server.pid}/task") == [str(server.pid)]
    parents = [Path(f"/proc/{rank.pid}/stat").read_text().rpartition(")")[2].split()[1] for rank in ranks(served)]
    assert parents == [str(server.pid)] * 2


def test_each_has_its_share_of_the_cpus(served: Any) -> None:
    found = served.run(served.engine.client.call(lambda core: core.collective_rpc("users_threads")))
    count, spins = max(1, len(os.sched_getaffinity(0)) // 2), os.environ[threads.SPINS]
    assert [tuple(each) for each in found] == [(count, spins)] * 2


def test_answers_equal_peft(served: Any, folder: Path) -> None:
    wanted = {name: tiny_models.answers(folder / "model", folder / name) for name in NAMES}
    assert served.answers(*NAMES) == wanted


def test_a_users_worker_extension_and_the_kernels_are_both_there(served: Any) -> None:
    answers = served.run(served.engine.client.call(lambda core: core.collective_rpc("users_answer", args=(21,))))
    assert answers == [{"answer": 42, "kernels": True}] * 2


def test_states_and_counts_are_told(served: Any) -> None:
    for name in NAMES:
        served.answers(name)
    assert [state(served, name) for name in NAMES].count("disk") == 2
    counts = served.run(served.registry.engine.counts())
    assert counts.in_memory == 2 and counts.loads >= 4


def test_a_pinned_adapter_stays_in_memory(served: Any) -> None:
    served.run(served.registry.pin("a", True))
    for name in NAMES[1:]:
        served.answers(name)
        assert state(served, "a") != "disk"
    served.run(served.registry.pin("a", False))
    for name in NAMES[1:]:
        served.answers(name)
    assert state(served, "a") == "disk"


def test_files_that_have_changed_or_gone_fail_their_requests_alone(served: Any, folder: Path) -> None:
    served.answers("b"), served.answers("c"), served.answers("d")
    kept = folder / "a.kept"
    shutil.move(folder / "a", kept)
    with pytest.raises(SettingsError, match="have changed or gone"):
        served.answers("a")
    shutil.copytree(kept, folder / "a")
    with pytest.raises(SettingsError, match="have changed or gone"):
        served.answers("a")
    served.run(served.registry.load("a", str(folder / "a"), replace=True))
    assert served.answers("a")["a"] == tiny_models.answers(folder / "model", folder / "a")


@pytest.mark.parametrize("tokens", [1, 8])
def test_one_that_is_damaged_while_its_request_waits_fails_alone(served: Any, folder: Path, tokens: int) -> None:
    """It passes every check, then waits for the only slot; its weights are cut when each rank reads them in a step."""
    wanted = served.answers("a", "c", "d")
    served.answers("a", "b")
    prompt = list(tiny_models.PROMPTS[0])
    weights = folder / "c" / "adapter_model.safetensors"
    whole = weights.read_bytes()

    async def scenario() -> list[Any]:
        first = asyncio.ensure_future(served.ask(prompt, "a", 100))
        await served.wait_for_requests(1, 0)
        second = asyncio.ensure_future(served.ask(prompt, "c", tokens))
        await served.wait_for_requests(1, 1)
        third = asyncio.ensure_future(served.ask(prompt, "d"))
        await served.wait_for_requests(1, 2)
        os.truncate(weights, len(whole) // 2)
        return await asyncio.gather(first, second, third, return_exceptions=True)

    first, second, third = served.run(scenario())
    assert isinstance(second, REQUEST_ERRORS) and str(second).startswith("adapter 'c' could not be read again: ")
    assert first[: tiny_models.TOKENS] == wanted["a"][0]
    assert third == wanted["d"][0]
    with pytest.raises(SettingsError, match=r"could not be read again.*replace the adapter"):
        served.answers("c")
    weights.write_bytes(whole)
    served.run(served.registry.load("c", str(folder / "c"), replace=True))
    assert served.answers("a", "c", "d") == wanted


@pytest.mark.skipif(not versions.reads_patterns(), reason="what this vLLM refuses, our own checks refuse")
def test_an_adapter_that_vllm_refuses_does_not_mix_up_the_ranks(served: Any, folder: Path, tmp_path: Path) -> None:
    path = shutil.copytree(folder / "a", tmp_path / "cut")
    # Our own checks pass this; vLLM insists on whole numbers.
    config = json.loads((path / CONFIG).read_text())
    (path / CONFIG).write_text(json.dumps({**config, "rank_pattern": {"q_proj": 4.0}}))

    async def both() -> list[Any]:
        loads = (served.registry.load(name, str(path)) for name in ("cut", "cut too"))
        return await asyncio.gather(*loads, return_exceptions=True)

    for failure in served.run(both()):
        assert isinstance(failure, BackendError) and "must be a positive integer" in str(failure)
    assert served.answers("b")["b"] == tiny_models.answers(folder / "model", folder / "b")
    assert state(served, "b") == "slot"


def test_ranks_of_an_idle_engine_are_killed_and_not_asked_to_end(served: Any) -> None:
    processes = ranks(served)
    assert kill_ranks(served.engine.client.peek(lambda core: core.model_executor, None))
    assert [process.exitcode for process in processes] == [-signal.SIGKILL] * 2
    # vLLM's monitor of the ranks has not taken it for a failure.
    assert not served.engine.client.resources.engine_dead


def test_a_rank_is_spawned_where_the_server_has_ended(folder: Path) -> None:
    server = RankServer.running
    assert server is not None
    os.kill(server.pid, signal.SIGKILL)
    made = serving.Served(folder / "model", {}, tensor_parallel_size=2)
    try:
        assert RankServer.running is None
        assert len(made.answers(None)[None]) == len(tiny_models.PROMPTS)
    finally:
        made.close()


def test_the_reason_of_a_rank_that_does_not_start_is_told(folder: Path) -> None:
    with pytest.raises(BackendError, match=r"a rank of the engine failed: .*No module named 'no_such_module'"):
        serving.Served(
            folder / "model", {}, tensor_parallel_size=2, worker_extension_cls="no_such_module.UsersExtension"
        )
