"""What a small runtime does not have, said where somebody asks for it.

`tritonode setup` leaves out packages that no plain load imports, and vLLM's kernels for other processors
(src/runtime/packages/left-out.ts). The runtime's manifest lists them, with the extra of `setup --with` that brings
each.
"""

from __future__ import annotations

import importlib.abc
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from tritonode.errors import UnavailableError

if TYPE_CHECKING:
    import types
    from collections.abc import Mapping, Sequence
    from importlib.machinery import ModuleSpec


class LeftOutError(ModuleNotFoundError):
    """A module is not installed because the runtime was made without it."""


class _Finder(importlib.abc.MetaPathFinder):
    """Comes last: what it is asked for, nothing else has found."""

    def __init__(self, modules: Mapping[str, str], directory: Path) -> None:
        self.modules = modules
        self.directory = directory

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: types.ModuleType | None = None
    ) -> ModuleSpec | None:
        extra = self.modules.get(fullname)
        # `importlib.util.find_spec` only asks whether a module exists, and the answer must be no. CPython's own import
        # calls its function `_find_spec`, and that this one.
        if extra is None or sys._getframe(2).f_code.co_name != "_find_and_load_unlocked":
            return None
        bring = _bring(extra, self.directory)
        raise LeftOutError(f"No module named '{fullname}': this runtime was made without it; {bring}", name=fullname)


def explain() -> None:
    """Let imports of what the runtime lacks say so, and check that it has vLLM's kernels for this processor.

    Imports torch if the runtime has kernels for only one kind of processor. Call it before vLLM is imported.

    Raises UnavailableError if the runtime was made on another processor and lacks the kernels for this one.
    """
    directory = Path(sys.prefix).parent
    try:
        left_out = json.loads((directory / "manifest.json").read_text()).get("leftOut")
    except (OSError, ValueError, AttributeError):
        return  # not a runtime of `setup`
    if not left_out:
        return
    sys.meta_path.append(_Finder(left_out["modules"], directory))
    if left_out["builds"] and (build := _build()) in left_out["builds"]:
        raise UnavailableError(
            f"the runtime in {directory} has no kernels for this processor (vllm.{build}): it was made on another one; "
            + _bring("portable", directory)
        )


def _build() -> str:
    """The extension that vLLM's CPU platform loads (`CpuPlatform.import_kernels`, vLLM 0.26 to 0.33)."""
    import platform

    import torch

    if platform.machine() != "x86_64" or torch.cpu._is_avx512_bf16_supported():
        return "_C"
    return "_C_AVX512" if torch.cpu._is_avx512_supported() else "_C_AVX2"


def _bring(extra: str, directory: Path) -> str:
    option = "--full" if extra == "full" else f"--with {extra}"
    return f"run: npx tritonode setup --dir {directory} {option}"
