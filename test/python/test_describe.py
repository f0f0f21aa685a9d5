"""What models and adapters are, from their files alone."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from tritonode import describe


def told(capsys: pytest.CaptureFixture[str], *argv: str) -> tuple[int, list[dict[str, Any]]]:
    code = describe.main(list(argv))
    return code, [json.loads(line) for line in capsys.readouterr().out.splitlines()]


def test_a_folder(fixtures: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = tmp_path / "model"
    shutil.copytree(fixtures["models"]["tiny"], model)
    code, [found] = told(capsys, "model", str(model))
    config = json.loads((model / "config.json").read_text())
    assert code == 0
    assert found["architecture"] == "LlamaForCausalLM"
    assert found["layers"] == config["num_hidden_layers"]
    assert found["context"] == config["max_position_embeddings"]
    assert found["parameters"] == sum(found["types"].values()) > config["vocab_size"] * config["hidden_size"]
    assert found["bytes"] == (model / "model.safetensors").stat().st_size
    assert found["problems"] == []
    assert found["chat_template"] is True
    for name in ("chat_template.jinja", "tokenizer_config.json"):
        (model / name).unlink(missing_ok=True)
    assert told(capsys, "model", str(model))[1][0]["chat_template"] is False
    (model / "model.safetensors").write_bytes(b"short")
    assert "not a safetensors file" in told(capsys, "model", str(model))[1][0]["problems"][0]


def test_no_model(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, [found] = told(capsys, "model", str(tmp_path))
    assert code == 1
    assert found["error"] == f"{tmp_path} is not the folder of a model: it has no readable config.json"


def test_adapters(fixtures: dict[str, Any], capsys: pytest.CaptureFixture[str]) -> None:
    paths = [fixtures["adapters"]["lora_a"], fixtures["broken"]["dora"]["path"], "/no/folder"]
    code, [good, dora, missing] = told(capsys, "adapters", "--model", fixtures["models"]["tiny"], "--", *paths)
    assert code == 0
    assert good["loadable"]
    assert good["rank"] == 8
    assert not dora["loadable"]
    assert dora["problems"][0] == "DoRA (use_dora) is not supported"
    assert missing == {"path": "/no/folder", "loadable": False, "problems": ["there is no folder /no/folder"]}


def test_an_adapter_of_another_model(fixtures: dict[str, Any], capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("vllm")
    path = fixtures["broken"]["other_base"]["path"]
    _, [alone] = told(capsys, "adapters", path)
    assert alone["loadable"]
    _, [found] = told(capsys, "adapters", "--model", fixtures["models"]["tiny"], path)
    assert not found["loadable"]
    assert "made for a base weight" in found["problems"][0]


def test_a_gguf_file_and_an_adapter_of_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    import tiny_gguf
    import tiny_models
    from transformers import LlamaConfig

    source = tiny_models.write_model(tmp_path / "source", LlamaConfig(**tiny_models.SIZES))
    adapter = tiny_models.write_adapter(tmp_path / "adapter", source, target_modules=["q_proj"])
    path = tmp_path / "tiny.gguf"
    tiny_gguf.write_gguf(source, path, tmp_path / "plain", "llama", lambda _: "Q8_0")
    code, [found] = told(capsys, "model", str(path))
    assert code == 0
    assert found["kind"] == "gguf"
    assert found["architecture"] == "LlamaForCausalLM"
    assert found["quantization"] == "Q8_0"
    assert found["layers"] == tiny_models.SIZES["num_hidden_layers"]
    assert found["problems"] == []
    _, [fits] = told(capsys, "adapters", "--model", str(path), "--", str(adapter))
    assert fits["loadable"], fits["problems"]
    path.write_bytes(path.read_bytes()[:1000])
    assert told(capsys, "model", str(path))[0] == 1
