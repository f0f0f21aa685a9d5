"""Names of modules: an adapter's, the checkpoint's and vLLM's, with vLLM's own mappings between them."""

from __future__ import annotations

from pathlib import Path

import pytest
import tiny_llama
from tritonode.engine import environment

environment.prepare()

from tritonode.lora.files import inspect_adapter  # noqa: E402
from tritonode.lora.modules import ModelModules, model_problems  # noqa: E402
from tritonode.vllm.lora import _renames, renames_weights  # noqa: E402

VISION = "PaliGemmaForConditionalGeneration"
HALVES = ("lora_A", "lora_B")


def tensors(module: str, rows: int = 64, columns: int = 32) -> tuple[tuple[str, tuple[int, ...]], ...]:
    shapes = ((4, columns), (rows, 4))
    return tuple(
        (f"base_model.model.{module}.{half}.weight", shape) for half, shape in zip(HALVES, shapes, strict=True)
    )


def test_vllm_knows_which_models_have_other_names_than_their_checkpoints() -> None:
    assert not renames_weights(["LlamaForCausalLM"])
    assert renames_weights([VISION])
    assert renames_weights(["NobodyKnowsThisModel"]) and renames_weights([])


def test_names_go_through_vllms_mapping() -> None:
    from vllm.model_executor.models.paligemma import PaliGemmaForConditionalGeneration

    modules = ModelModules(
        sizes={"language_model.model.layers.0.self_attn.q_proj": (64, 32)},
        mapper=_renames(PaliGemmaForConditionalGeneration.hf_to_vllm_mapper),
    )
    for name in ("model.language_model.layers.0.self_attn.q_proj", "language_model.model.layers.0.self_attn.q_proj"):
        assert model_problems(tensors(name), modules) == ()
    (tower,) = model_problems(tensors("model.vision_tower.layers.0.q_proj"), modules)
    assert "no module 'model.vision_tower.layers.0.q_proj' that vLLM accepts adapters for" in tower
    (misfit,) = model_problems(tensors("model.language_model.layers.0.self_attn.q_proj", rows=48), modules)
    assert "made for a base weight of [48, 32], this base model has [64, 32]" in misfit


@pytest.mark.parametrize("renamed", [True, False])
def test_a_checkpoint_whose_names_are_mapped_does_not_refuse_an_adapter(tmp_path: Path, renamed: bool) -> None:
    """The checkpoint is a vision model's as it was saved years ago, the adapter of today's transformers."""
    base = tmp_path / "base"
    base.mkdir()
    old = tiny_llama.normal(tiny_llama.generator("old"), (128, 128), 1)
    tiny_llama.write_safetensors(
        base / "model.safetensors", {"language_model.model.layers.0.self_attn.q_proj.weight": old}
    )
    tiny_llama.write_adapter(tmp_path / "adapter", tiny_llama.TINY, 8, ["q_proj"])
    found = inspect_adapter(str(tmp_path / "adapter"), base_model=str(base), renamed=lambda: renamed)
    assert found.usable == renamed, found.problems
