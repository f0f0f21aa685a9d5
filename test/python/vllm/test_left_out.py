"""Imports of what a small runtime lacks."""

from __future__ import annotations

import importlib
import importlib.util
import json
import sys
from pathlib import Path

import pytest
from tritonode.errors import UnavailableError
from tritonode.vllm import left_out


@pytest.fixture()
def runtime(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(sys, "meta_path", list(sys.meta_path))
    monkeypatch.setattr(sys, "prefix", str(tmp_path / "venv"))
    return tmp_path


def write(runtime: Path, **changes: object) -> None:
    description = {"packages": {}, "modules": {"absent_compiler": "full", "absent_eyes": "vision"}, "builds": []}
    (runtime / "manifest.json").write_text(json.dumps({"leftOut": description | changes}))


def test_an_import_says_how_to_bring_the_module(runtime: Path) -> None:
    write(runtime)
    left_out.explain()
    for name, option in (("absent_compiler", "--full"), ("absent_eyes", "--with vision")):
        # What only asks gets its answer, and what can do without goes on.
        assert importlib.util.find_spec(name) is None
        with pytest.raises(ImportError) as raised:
            importlib.import_module(name)
        assert raised.value.name == name
        assert str(raised.value).endswith(f"run: npx tritonode setup --dir {runtime} {option}")
    with pytest.raises(ModuleNotFoundError, match=r"^No module named 'absent_otherwise'$"):
        importlib.import_module("absent_otherwise")


def test_kernels_for_another_processor_are_refused(runtime: Path) -> None:
    others = sorted({"_C", "_C_AVX512", "_C_AVX2"} - {left_out._build()})
    write(runtime, builds=others)
    left_out.explain()
    write(runtime, builds=[left_out._build()])
    with pytest.raises(UnavailableError, match=f"no kernels for this processor.*--dir {runtime} --with portable"):
        left_out.explain()


@pytest.mark.parametrize("text", [None, "{", "[]", "{}"])
def test_other_runtimes_are_left_alone(runtime: Path, text: str | None) -> None:
    if text is not None:
        (runtime / "manifest.json").write_text(text)
    before = list(sys.meta_path)
    left_out.explain()
    assert sys.meta_path == before


def test_the_build_is_the_one_that_vllm_loads() -> None:
    import vllm._custom_ops  # noqa: F401

    loaded = {Path(line.split()[-1]).name for line in Path("/proc/self/maps").read_text().splitlines() if ".so" in line}
    assert f"{left_out._build()}.abi3.so" in loaded
