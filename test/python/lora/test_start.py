"""What is set for adapters before the engine is built."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("vllm")

from tritonode.lora.start import rank_for


def adapter(folder: Path, **config: Any) -> str:
    folder.mkdir()
    content = {"r": 8, "lora_alpha": 16, "target_modules": ["q_proj"], **config}
    (folder / "adapter_config.json").write_text(json.dumps(content))
    return str(folder)


def test_the_highest_rank_decides(tmp_path: Path) -> None:
    small, large = adapter(tmp_path / "small"), adapter(tmp_path / "large", r=33)
    pattern = adapter(tmp_path / "pattern", rank_pattern={"q_proj": 100, "v_proj": 4})
    assert rank_for([]) == 16
    assert rank_for([small]) == 16
    assert rank_for([small, large]) == 64
    assert rank_for([small, pattern]) == 128
    assert rank_for([adapter(tmp_path / "huge", r=1000)]) == 512


def test_files_that_cannot_be_read_decide_nothing(tmp_path: Path) -> None:
    broken = tmp_path / "broken"
    broken.mkdir()
    (broken / "adapter_config.json").write_text("{")
    assert rank_for([str(broken), "/no/folder", adapter(tmp_path / "large", r=32)]) == 32
