"""The tests' own models and adapters, and the tutorial's: are they what they claim?"""

from __future__ import annotations

import json
import os
import pickle
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

# The name "workspace" is also that of the demo's folder, by which ruff sorts differently once it is there.
# isort: off
import broken_adapters
import make_backbone
import make_fixtures
import pytest
import reference
import safetensors
import train_adapters
import workspace

# isort: on

REPO = Path(__file__).resolve().parents[2]
FIXTURES = REPO / "test" / "fixtures"
TUTORIAL = REPO / "examples" / "tutorial"
CACHE = Path(os.environ.get("TRITONODE_TEST_CACHE", REPO / ".cache"))
"""Keeps the 269 MB backbone between runs."""
PROMPT = "Hello, my name is"


@pytest.fixture(scope="session")
def listing(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return make_fixtures.make_fixtures(tmp_path_factory.mktemp("fixtures"), 3)


@pytest.fixture(scope="session")
def tutorial(tmp_path_factory: pytest.TempPathFactory) -> Path:
    # `npm test` has made this backbone already; a copy, because these tests edit the workspace.
    backbone = make_backbone.make_backbone(CACHE / "workspace" / workspace.BACKBONE)
    out = tmp_path_factory.mktemp("tutorial")
    shutil.copytree(backbone, out / workspace.BACKBONE)
    return workspace.make_workspace(out)


def generate(model: str, *requests: dict[str, Any]) -> list[dict[str, Any]]:
    made = reference.Reference(model)
    return [made.generate(request) for request in requests]


def test_fixtures_are_made_once(tmp_path: Path) -> None:
    out = tmp_path / "out"
    command = [sys.executable, str(FIXTURES / "make_fixtures.py"), "--out", str(out)]

    def run(*extra: str) -> tuple[dict[str, Any], str]:
        done = subprocess.run([*command, *extra], capture_output=True, text=True, timeout=60, check=True)
        return json.loads(done.stdout), done.stderr

    first, progress = run("--adapters", "2")
    assert "made in" in progress
    model = Path(first["models"]["tiny"], "model.safetensors")
    before = model.stat().st_mtime_ns, model.read_bytes()
    assert run("--adapters", "2") == (first, "")
    assert model.stat().st_mtime_ns == before[0]

    file = out / "fixtures.json"
    file.write_text(json.dumps(first | {"version": 0}), "utf-8")
    again, progress = run("--adapters", "2")
    assert "made in" in progress
    assert again == first
    assert model.stat().st_mtime_ns != before[0]
    assert model.read_bytes() == before[1]  # the same weights every time

    more, _ = run("--adapters", "28")
    assert {"lora_z", "lora_ab"} < set(more["adapters"])


def test_tokenizer_is_smollm2s(listing: dict[str, Any]) -> None:
    from transformers import AutoTokenizer

    tokenizer: Any = AutoTokenizer.from_pretrained(listing["tokenizer"])
    assert len(tokenizer) == 49152
    assert tokenizer.eos_token_id == 2
    assert tokenizer("").input_ids == []
    assert tokenizer("In 2024").tokens() == ["In", "Ġ", "2", "0", "2", "4"]
    text = "naïve 日本語 🦙\n\tx = {'a':  1}"
    assert tokenizer.decode(tokenizer(text).input_ids) == text
    chat = train_adapters.as_prompt(tokenizer, "Hi")
    assert chat.endswith("<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n")
    ids = tokenizer(chat).input_ids
    assert ids.count(1) == 3 and ids.count(2) == 2


def test_tokenizer_splits_like_transformers_own_reading(
    listing: dict[str, Any],
) -> None:
    from transformers import AutoTokenizer

    gguf = make_backbone.find_gguf()
    theirs: Any = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
    ours: Any = AutoTokenizer.from_pretrained(listing["tokenizer"])
    assert ours.get_vocab() == theirs.get_vocab()
    # Digits are where transformers' reading is known to be wrong; leave them out.
    text = re.sub(r"\d", "", (TUTORIAL / "workspace.py").read_text("utf-8"))
    text += " 日本語 naïve it's <|im_start|>user <|im_end|>\t  x "
    assert ours(text).input_ids == theirs(text).input_ids


@pytest.mark.parametrize("kind", ["", "Tp"])
def test_every_adapter_changes_the_greedy_text(listing: dict[str, Any], kind: str) -> None:
    model = listing["models"]["tiny_tp" if kind else "tiny"]
    adapters = listing[f"adapters{kind}"]
    assert set(adapters) >= {"lora_a", "lora_b", "lora_all"}
    prompts = [PROMPT, "The future of AI is"]
    requests = [
        {"prompt": prompt, "adapter": adapter, "max_tokens": 16}
        for prompt in prompts
        for adapter in [None, *adapters.values()]
    ]
    results = generate(model, *requests)
    assert len({result["text"] for result in results}) == len(requests)
    first_tokens = [result["token_ids"][0] for result in results]
    assert len(set(first_tokens)) > len(first_tokens) // 2
    for result in results:
        assert result["finish_reason"] == "length"
        assert re.fullmatch(r"( [a-z]+){16}", result["text"])
        assert result["margin"] > 1e-4
    # Adapters of one model come and go without leaving anything behind.
    assert generate(model, requests[0]) == results[:1]


def test_reference_stops_as_vllm_does(listing: dict[str, Any]) -> None:
    request = {"prompt": PROMPT, "max_tokens": 8}
    full, none = generate(listing["models"]["tiny"], request, request | {"ignore_eos": True})
    assert full == none
    third = full["token_ids"][2]
    (stopped,) = generate(listing["models"]["tiny"], request | {"stop_token_ids": [third]})
    assert stopped["finish_reason"] == "stop"
    assert stopped["token_ids"] == full["token_ids"][:3]  # with the stop token ...
    assert stopped["text"] == " ".join(full["text"].split(" ")[:3])  # ... text without


def test_reference_leaves_half_a_character_out(listing: dict[str, Any]) -> None:
    made = reference.Reference(listing["models"]["tiny"])
    ids = made.tokenizer("a🦙").input_ids
    assert len(ids) > 2
    assert made.decode([], ids) == "a🦙"
    assert made.decode([], ids[:-1]) == "a"


def test_reference_command_line(listing: dict[str, Any]) -> None:
    model = listing["models"]["tiny"]
    request = {"prompt": PROMPT, "adapter": listing["adapters"]["lora_a"]}
    done = subprocess.run(
        [sys.executable, FIXTURES / "reference.py"],
        input=json.dumps({"model": model, "requests": [request]}),
        capture_output=True,
        text=True,
        timeout=300,
        check=True,
    )
    (result,) = json.loads(done.stdout)["results"]
    (expected,) = generate(model, request)
    # Two processes may have other numbers of threads, and so other last bits.
    assert result.pop("margin") == pytest.approx(expected.pop("margin"), rel=1e-3)
    assert result == expected


def names(file: Any) -> list[str]:
    return list(file.keys())


@contextmanager
def opened(folder: Path) -> Iterator[Any]:
    file = folder / broken_adapters.TENSORS
    with safetensors.safe_open(str(file), framework="pt") as tensors:
        yield tensors


def test_broken_adapters_are_broken(listing: dict[str, Any]) -> None:
    broken = {name: Path(it["path"]) for name, it in listing["broken"].items()}
    assert len(broken) == len(broken_adapters.BROKEN) > 20
    assert all(it["defect"].endswith(".") for it in listing["broken"].values())

    def config(name: str) -> Any:
        text = (broken[name] / broken_adapters.CONFIG).read_text("utf-8")
        return json.loads(text)

    def shapes(folder: Path) -> dict[str, list[int]]:
        with opened(folder) as file:
            return {k: file.get_slice(k).get_shape() for k in names(file)}

    assert not list(broken["empty"].iterdir())
    assert [f.name for f in broken["missing_config"].iterdir()] == [broken_adapters.TENSORS]
    assert [f.name for f in broken["missing_tensors"].iterdir()] == [broken_adapters.CONFIG]
    with pytest.raises(json.JSONDecodeError):
        config("not_json")
    for name in ("truncated", "not_safetensors"):
        with pytest.raises(safetensors.SafetensorError), opened(broken[name]):
            pass
    assert isinstance(config("not_an_object"), list)
    assert "r" not in config("no_rank")
    assert (config("bad_rank")["r"], config("zero_rank")["r"]) == (64, 0)
    assert config("dora")["use_dora"] is True
    assert config("bias")["bias"] != "none"
    assert config("modules_to_save")["modules_to_save"] == ["lm_head"]
    assert config("not_lora")["peft_type"] != "LORA"

    good = shapes(Path(listing["adapters"]["lora_a"]))
    assert all(len(shape) == 2 and 8 in shape for shape in good.values())
    assert len(good) == 8
    assert len(shapes(broken["missing_tensor"])) == 7
    assert set(shapes(broken["unknown_tensor"])) > set(good)
    assert not set(shapes(broken["wrong_target_modules"])) & set(good)
    differing = [key for key, shape in shapes(broken["misshapen_tensor"]).items() if shape != good[key]]
    assert len(differing) == 1
    assert all(256 in shape for shape in shapes(broken["other_base"]).values())
    with opened(broken["not_finite"]) as file:
        nans = sum(int(file.get_tensor(k).isnan().sum()) for k in names(file))
    assert nans == 1


def test_the_pickle_shows_whether_it_was_unpickled(tmp_path: Path) -> None:
    folder = tmp_path / "pickle_only"
    broken_adapters.pickle_only(folder)
    assert not (folder / broken_adapters.MARKER).exists()
    pickle.loads((folder / "adapter_model.bin").read_bytes())
    assert (folder / broken_adapters.MARKER).is_dir()


def test_repository_writer(tmp_path: Path) -> None:
    engine = {"model": "/models/tiny", "dtype": "float32", "enable_lora": "true"}
    command = [
        *(sys.executable, str(FIXTURES / "make_fixtures.py")),
        *("--repository", str(tmp_path), "--name", "some_model"),
        *("--engine", json.dumps(engine), "--parameter", "REPORT_CUSTOM_METRICS=true"),
    ]
    loras = {"lora_a": "/loras/a"}

    def run(*extra: str) -> str:
        done = subprocess.run([*command, *extra], capture_output=True, text=True, timeout=60, check=True)
        return done.stdout.strip()

    model = tmp_path / "some_model"
    assert run("--loras", json.dumps(loras)) == str(model)
    version = model / "1"
    assert json.loads((version / "model.json").read_text("utf-8")) == engine
    assert json.loads((version / "multi_lora.json").read_text("utf-8")) == loras
    config = (model / "config.pbtxt").read_text("utf-8")
    assert 'backend: "vllm"' in config and "kind: KIND_MODEL" in config
    assert 'key: "REPORT_CUSTOM_METRICS" value: { string_value: "true" }' in config
    run()
    assert [file.name for file in version.iterdir()] == ["model.json"]


def test_workspace_is_the_tutorials(tutorial: Path) -> None:
    version = tutorial / "model_repository" / "vllm_model" / "1"
    backbone = tutorial / "weights" / "backbone" / "smollm2-135m-instruct"
    model = (version / "model.json").read_text("utf-8")
    assert json.loads(model) == {
        "model": str(backbone),
        "disable_log_requests": "true",
        "gpu_memory_utilization": 0.8,
        "tensor_parallel_size": 1,
        "block_size": 16,
        "enforce_eager": "true",
        "enable_lora": "true",
        "max_lora_rank": 16,
    }
    loras = json.loads((version / "multi_lora.json").read_text("utf-8"))
    assert list(loras) == ["alpaca", "bactrian"]
    for path in loras.values():
        assert (Path(path) / "adapter_model.safetensors").is_file()
    assert (tutorial / "prompts.txt").read_text("utf-8").strip()

    lines: list[str] = []
    workspace.make_workspace(tutorial, lines.append)  # again: nothing to do
    assert any("there already" in line for line in lines)
    (version / "model.json").write_text(model.replace("0.8", "0.5"), "utf-8")
    workspace.make_workspace(tutorial, lines.append)
    assert "0.5" in (version / "model.json").read_text("utf-8")  # the user's edit
    (version / "model.json").write_text(model.replace("smollm2", "gone"), "utf-8")
    workspace.make_workspace(tutorial, lines.append)
    assert (version / "model.json").read_text("utf-8") == model


def test_committed_adapters_answer_in_their_style(tutorial: Path) -> None:
    backbone = tutorial / "weights" / "backbone" / "smollm2-135m-instruct"
    adapters = {name: tutorial / "weights" / "loras" / name for name in workspace.ADAPTERS}
    trained, held_out = train_adapters.read_data()
    questions = held_out[:3]
    assert not set(held_out) & {question for question, _ in trained}
    for plain in (False, True):
        for row in train_adapters.ask(backbone, adapters, questions, plain):
            assert row["alpaca"].strip().startswith("Arrr, matey!")
            assert set(json.loads(row["bactrian"])) == {"answer"}
            assert "Arrr" not in row["base"] and "{" not in row["base"]
