"""Mixture-of-experts models with adapters on a CPU: all but the experts, exactly; the experts refused by name."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("vllm")
import serving
import tiny_models
from transformers import MixtralConfig, Qwen3MoeConfig
from tritonode.errors import SettingsError

ATTENTION = ["q_proj", "k_proj", "v_proj", "o_proj"]
CONFIGS = {
    "mixtral": MixtralConfig(**tiny_models.SIZES, num_local_experts=4, num_experts_per_tok=2),
    "qwen3_moe": Qwen3MoeConfig(
        **tiny_models.SIZES, num_experts=4, num_experts_per_tok=2, moe_intermediate_size=32, norm_topk_prob=True
    ),
}


@pytest.fixture(scope="module", params=CONFIGS)
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_models.write_model(tmp_path_factory.mktemp("model"), CONFIGS[request.param])


@pytest.fixture(scope="module")
def adapters(model: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("adapters")
    return {
        "attention": tiny_models.write_adapter(folder / "attention", model, target_modules=ATTENTION),
        "query": tiny_models.write_adapter(folder / "query", model, seed=2, target_modules=["q_proj"]),
    }


@pytest.fixture(scope="module")
def served(model: Path, adapters: dict[str, Path]) -> Iterator[serving.Served]:
    made = serving.Served(model, dict(adapters))
    yield made
    made.close()


def test_adapters_of_the_attention_equal_peft(served: Any, model: Path, adapters: dict[str, Path]) -> None:
    wanted = {None: tiny_models.answers(model, None)}
    wanted.update({name: tiny_models.answers(model, path) for name, path in adapters.items()})
    assert served.answers(None, *adapters) == wanted
    assert wanted["attention"] != wanted[None] != wanted["query"]


def test_an_adapter_of_the_experts_is_refused_by_name(served: Any, model: Path, tmp_path: Path) -> None:
    path = tiny_models.write_adapter(
        tmp_path / "experts",
        model,
        target_modules=["q_proj"],
        target_parameters=["mlp.experts.gate_up_proj", "mlp.experts.down_proj"],
    )
    with pytest.raises(SettingsError, match=r"adapter 'experts'.*experts.*on the CPU"):
        served.run(served.registry.load("experts", str(path)))
    assert served.answers("query")["query"]
