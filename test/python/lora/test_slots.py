"""Slots of adapters are kept within the memory that there is."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from tritonode.engine.settings import EngineSettings, apply_defaults
from tritonode.errors import SettingsError
from tritonode.lora.slots import bound_slots, slot_bytes

# Llama 3.2 1B.
CONFIG: dict[str, Any] = {
    "hidden_size": 2048, "intermediate_size": 8192, "num_hidden_layers": 16, "num_attention_heads": 32,
    "num_key_value_heads": 8, "head_dim": 64, "vocab_size": 128256,
}  # fmt: skip
GIB = 1 << 30


def settings(folder: Path, rank: int, adapters: int = 8, **args: Any) -> EngineSettings:
    (folder / "config.json").write_text(json.dumps(CONFIG))
    loras = {f"a{at}": "unused" for at in range(adapters)}
    made = EngineSettings({"model": str(folder), "max_lora_rank": rank, **args}, True, loras)
    apply_defaults(made, on_cpu=True, available_memory=8 * GIB)
    return made


def test_a_default_is_lowered_to_a_quarter_of_the_memory(tmp_path: Path) -> None:
    each = slot_bytes(CONFIG, 512, 2)
    assert each == 16 * 44032 * 512 * 2 + 2 * (128256 + 2048) * 512 * 2
    made = settings(tmp_path, 512)
    note = bound_slots(made, 8 * GIB)
    assert made.engine_args["max_loras"] == 8 * GIB // 4 // each == 2
    assert note is not None and note.startswith("max_loras = 2, not 8: a slot of max_lora_rank 512 takes 0.92 GiB")
    assert made.engine_args["max_cpu_loras"] >= 8, "host memory is used as adapters are loaded"


def test_small_ranks_keep_their_slots(tmp_path: Path) -> None:
    made = settings(tmp_path, 16)
    assert bound_slots(made, 8 * GIB) is None
    assert made.engine_args["max_loras"] == 8


def test_what_the_user_asks_for_is_kept_or_refused(tmp_path: Path) -> None:
    made = settings(tmp_path, 512, max_loras=6)
    assert bound_slots(made, 8 * GIB) is None
    assert made.engine_args["max_loras"] == 6
    wanted = r"max_loras 16 with max_lora_rank 512 needs 14.7 GiB .* 8.0 GiB are free: .* or max_loras to 8$"
    with pytest.raises(SettingsError, match=wanted):
        bound_slots(settings(tmp_path, 512, max_loras=16), 8 * GIB)


def test_one_slot_that_does_not_fit_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="lower max_lora_rank"):
        bound_slots(settings(tmp_path, 512), GIB // 2)


@pytest.mark.parametrize("change", [{"num_local_experts": 8}, {"intermediate_size": None}])
def test_a_model_of_unknown_matrices_is_not_judged(tmp_path: Path, change: dict[str, Any]) -> None:
    assert slot_bytes({**CONFIG, **change}, 512, 2) is None
