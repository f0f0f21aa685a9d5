"""vLLM's LoRA path for GPUs gets the same slots and rows from the registry as the CPU's path does, evictions included.

Needs the compiler package `triton` (1 GB, not in a runtime for the CPU): `npm run matrix:vllm` has it.
"""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[3]


def _has_triton() -> bool:
    # A small runtime says of what it left out that it is there, to explain at its import how to get it.
    found = importlib.util.find_spec("triton")
    return found is not None and any(
        (Path(each) / "language").is_dir() for each in found.submodule_search_locations or ()
    )


pytestmark = pytest.mark.skipif(
    not _has_triton(), reason="the package `triton` is not installed (1 GB): npm run matrix:vllm has it"
)


@pytest.fixture(scope="module")
def seen(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    paths = [str(ROOT / "test/fixtures"), str(ROOT / "backends/vllm"), os.environ.get("PYTHONPATH", "")]
    run = subprocess.run(
        [sys.executable, str(ROOT / "test/fixtures/gpu_lora.py"), str(tmp_path_factory.mktemp("gpu"))],
        capture_output=True,
        text=True,
        timeout=600,
        env={**os.environ, "TRITON_INTERPRET": "1", "PYTHONPATH": os.pathsep.join(paths)},
    )
    assert run.returncode == 0, run.stderr[-3000:]
    found: dict[str, Any] = json.loads(run.stdout.splitlines()[-1])
    return found


def test_kernels_give_what_the_cpu_gives(seen: dict[str, Any]) -> None:
    """Each call was compared where it was made; here: that there were calls, with adapters and without."""
    assert seen["calls"] > 50
    assert seen["changed_rows"] > 50
    assert seen["base_rows"] > 50
    assert seen["gpu"] == seen["cpu"]
    base, *adapters, last = seen["gpu"]["first"]
    assert base == last
    assert len({tuple(answer) for answer in (base, *adapters)}) == 5, "each adapter has its own words"
    assert seen["gpu"]["replaced"] == [adapters[1], base], "the new version of `a` is the files of `b`"


def test_slots_are_taken_and_given_up(seen: dict[str, Any]) -> None:
    served = [(slots, [slot for slot in rows if slot >= 0]) for slots, rows in seen["steps"]]
    used = {slots[slot] for slots, rows in served for slot in rows}
    assert used == {1, 2, 3, 4, 5}, "four adapters and the version that replaced one, in two slots"
    assert all(len(slots) == 2 for slots, _ in served)
    mixed = [rows for _, rows in seen["steps"] if -1 in rows and 0 in rows and 1 in rows]
    assert mixed, "no step had both slots and a row without an adapter"
