"""The quicker reading of adapters gives what vLLM's own reading gives, or leaves the file to vLLM."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import tiny_llama
import torch
from safetensors.torch import load_file, save_file

pytest.importorskip("vllm")
from tritonode.lora.weights import AdapterReader
from tritonode.vllm import versions
from tritonode.vllm.lora import _renames
from vllm.lora.lora_model import LoRAModel
from vllm.lora.peft_helper import PEFTHelper
from vllm.model_executor.models.llama import LlamaForCausalLM

MODULES = {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj", "embed_tokens", "lm_head"}
WEIGHTS = "adapter_model.safetensors"


@pytest.fixture(scope="module")
def adapters(fixtures: dict[str, Any]) -> dict[str, str]:
    adapters: dict[str, str] = fixtures["adapters"]
    return adapters


def read_with(model_class: type[LoRAModel], folder: str, dtype: torch.dtype = torch.bfloat16) -> LoRAModel:
    model = model_class.from_local_checkpoint(
        folder,
        MODULES,
        peft_helper=PEFTHelper.from_local_dir(folder, None),
        lora_model_id=7,
        device="cpu",
        dtype=dtype,
        model_vocab_size=tiny_llama.VOCABULARY,
        weights_mapper=_renames(LlamaForCausalLM.hf_to_vllm_mapper),
    )
    for lora in model.loras.values():
        lora.optimize()
    return model


def assert_same(one: LoRAModel, other: LoRAModel) -> None:
    assert one.id == other.id
    assert one.rank == other.rank
    assert set(one.loras) == set(other.loras)
    for name, lora in one.loras.items():
        twin = other.loras[name]
        assert (lora.rank, lora.scaling, lora.lora_alpha) == (twin.rank, twin.scaling, twin.lora_alpha)
        for mine, theirs in ((lora.lora_a, twin.lora_a), (lora.lora_b, twin.lora_b)):
            assert mine.dtype == theirs.dtype
            assert torch.equal(mine, theirs), name


def changed_copy(source: str, folder: Path, change: Any = None, **config: Any) -> str:
    """A copy of an adapter with other tensors or another configuration."""
    shutil.copytree(source, folder)
    if change is not None:
        save_file(
            {name: change(name, tensor) for name, tensor in load_file(folder / WEIGHTS).items()}, folder / WEIGHTS
        )
    path = folder / "adapter_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **config}))
    return str(folder)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
@pytest.mark.parametrize("name", ["lora_a", "lora_all", "lora_mlp", "lora_h"])
def test_it_reads_what_vllm_reads(
    adapters: dict[str, str], name: str, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = read_with(LoRAModel, adapters[name], dtype)
    model_class = AdapterReader().model_class()
    assert_same(read_with(model_class, adapters[name], dtype), expected)
    # From the second on vLLM's loop over the tensors must not be entered.
    monkeypatch.setattr(LoRAModel, "from_local_checkpoint", None)
    assert_same(read_with(model_class, adapters[name], dtype), expected)


def test_another_adapter_of_the_same_header_keeps_its_own_weights_and_scalings(
    adapters: dict[str, str], tmp_path: Path
) -> None:
    other = changed_copy(
        adapters["lora_all"],
        tmp_path / "other",
        lambda _, tensor: tensor * -3,
        lora_alpha=48,
        alpha_pattern={"q_proj": 6} if versions.reads_patterns() else {},
        use_rslora=True,
    )
    model_class = AdapterReader().model_class()
    read_with(model_class, adapters["lora_all"])
    assert_same(read_with(model_class, other), read_with(LoRAModel, other))


def test_what_it_does_not_know_is_read_by_vllm(adapters: dict[str, str], tmp_path: Path) -> None:
    mixed = changed_copy(
        adapters["lora_a"], tmp_path / "mixed", lambda name, tensor: tensor.half() if "lora_A" in name else tensor
    )
    model_class = AdapterReader().model_class()
    for _ in range(2):
        assert_same(read_with(model_class, mixed), read_with(LoRAModel, mixed))


def test_a_header_too_large_to_keep_is_read_by_vllm(adapters: dict[str, str], tmp_path: Path) -> None:
    large = Path(changed_copy(adapters["lora_a"], tmp_path / "large"))
    save_file(load_file(large / WEIGHTS), large / WEIGHTS, {"notes": "x" * (5 << 20)})
    model_class = AdapterReader().model_class()
    for _ in range(2):
        assert_same(read_with(model_class, str(large)), read_with(LoRAModel, str(large)))


def test_a_file_cut_short_since_is_refused_by_vllm(adapters: dict[str, str], tmp_path: Path) -> None:
    short = changed_copy(adapters["lora_a"], tmp_path / "short")
    model_class = AdapterReader().model_class()
    read_with(model_class, short)
    with open(Path(short) / WEIGHTS, "r+b") as file:
        file.truncate(file.seek(0, 2) - 2)
    with pytest.raises(Exception, match=r"(?i)incomplete|header|invalid"):
        read_with(model_class, short)


def test_it_keeps_a_bounded_number_of_headers(adapters: dict[str, str], tmp_path: Path) -> None:
    reader = AdapterReader()
    model_class = reader.model_class()
    for number in range(40):
        folder = tmp_path / str(number)
        shutil.copytree(adapters["lora_a"], folder)
        save_file(load_file(folder / WEIGHTS), folder / WEIGHTS, {"number": str(number)})
        read_with(model_class, str(folder))
    assert len(reader._layouts) == 32
