"""Module names and weight shapes of a base model, read from its checkpoint's headers before the engine is built.

An adapter that cannot fit is refused at once, not after minutes of loading. Where the headers do not decide, vLLM is
asked after it has loaded the model (`modules`).
"""

from __future__ import annotations

import json
import os
from functools import lru_cache
from typing import Any

from tritonode.gguf.folder import METHOD
from tritonode.gguf.names import named_tensors
from tritonode.gguf.reader import GgufFile

from .header import read_safetensors_header
from .tensors import Layout, made_for, of_experts

# Rows and columns of a weight; None if a quantised checkpoint does not contain the number.
Sizes = tuple[int | None, int | None]


@lru_cache(maxsize=8)
def base_model_shapes(model: str) -> dict[str, Sizes]:
    """Return the base model's weight shapes by module name, from its files' headers; empty without such files."""
    file = _config(model).get("quantization_config")
    if isinstance(file, dict) and file.get("quant_method") == METHOD:
        return _gguf_shapes(str(file["file"]))
    headers: dict[str, tuple[tuple[int, ...], str]] = {}
    if os.path.isdir(model):
        for filename in sorted(os.listdir(model)):
            if filename.endswith(".safetensors"):
                for name, entry in read_safetensors_header(os.path.join(model, filename)).items():
                    headers[name] = (tuple(entry["shape"]), entry["dtype"])
    shapes: dict[str, Sizes] = {}
    for name, (shape, dtype) in headers.items():
        module, _, kind = name.rpartition(".")
        if kind == "weight" and len(shape) == 2:
            # bitsandbytes packs a weight into one column of bytes.
            packed = dtype == "U8"
            shapes[module] = (None, None) if packed else (shape[0], shape[1])
        elif kind == "weight_packed" and len(shape) == 2:
            # compressed-tensors packs several columns into one.
            shapes[module] = (shape[0], None)
        elif kind == "qweight" and len(shape) == 2:
            shapes[module] = _quantised(headers, module, shape)
    return shapes


def _gguf_shapes(path: str) -> dict[str, Sizes]:
    with GgufFile(path) as file:
        tensors = {each.name.rpartition("."): each.tensor.shape for each in named_tensors(file)}
    return {name[0]: (shape[0], shape[1]) for name, shape in tensors.items() if name[2] == "weight" and len(shape) == 2}


def _quantised(headers: dict[str, tuple[tuple[int, ...], str]], module: str, packed: tuple[int, ...]) -> Sizes:
    """Sizes of a GPTQ or AWQ weight.

    GPTQ packs inputs, and `g_idx` has one entry for each of them; AWQ packs outputs. `scales` has one column for each
    output in both.
    """
    scales = headers.get(f"{module}.scales", ((), ""))[0]
    outputs = scales[1] if len(scales) == 2 else None
    order = headers.get(f"{module}.g_idx", ((), ""))[0]
    if outputs is not None and packed[1] != outputs:
        return (outputs, packed[0])
    return (outputs, order[0] if len(order) == 1 else None)


def architectures(model: str) -> list[str]:
    """Return `architectures` of a base model's `config.json`; empty if the file or the key is missing."""
    named = _config(model).get("architectures")
    return [name for name in named if isinstance(name, str)] if isinstance(named, list) else []


def _config(model: str) -> dict[str, Any]:
    try:
        with open(os.path.join(model, "config.json"), encoding="utf-8") as file:
            config = json.load(file)
    except (OSError, ValueError, RecursionError):
        return {}
    return config if isinstance(config, dict) else {}


def checkpoint_problems(layout: Layout, model: str, *, transposed: bool, renamed: bool) -> list[str]:
    """Return the parts of an adapter that do not fit the checkpoint of its base model, at most four.

    Args:
        layout: the adapter's tensors.
        model: folder of the base model.
        transposed: the base model stores its weights transposed (PEFT's `fan_in_fan_out`).
        renamed: modules may have other names in the checkpoint than in the adapter.
    """
    base = base_model_shapes(model)
    problems: list[str] = []
    if not base:
        return problems
    for module, sides in layout.pairs.items():
        sizes = _named(base, module)
        if sizes is None:
            # A tied lm_head has no weight in the file.
            if not renamed and not of_experts(module) and module.rsplit(".", 1)[-1] != "lm_head":
                problems.append(f"the base model has no module '{module}'")
            continue
        made = made_for(module, sides)
        if made is not None and not of_experts(module) and not fits(made, sizes[::-1] if transposed else sizes):
            problems.append(misfit(module, made, sizes))
    for module, shape in layout.copies.items():
        rows = (_named(base, module) or (None, None))[0]
        if rows is not None and shape[:1] != (rows,):
            problems.append(other_vocabulary(module, shape, rows))
    # An adapter of another model fails on every layer: the first few show why.
    return problems[:4]


def _named(base: dict[str, Sizes], module: str) -> Sizes | None:
    return base.get(module) or base.get(f"model.{module}") or base.get(module.removeprefix("model."))


def fits(made: tuple[int, int], sizes: Sizes) -> bool:
    return all(size is None or size == mine for mine, size in zip(made, sizes, strict=True))


def misfit(module: str, made: tuple[int, int], sizes: Sizes) -> str:
    shown = ["?" if size is None else size for size in sizes]
    return f"{module}: made for a base weight of {list(made)}, this base model has [{shown[0]}, {shown[1]}]"


def other_vocabulary(module: str, shape: tuple[int, ...], rows: int) -> str:
    return f"{module}: made for a vocabulary of {sum(shape[:1])}, this base model has {rows}"
