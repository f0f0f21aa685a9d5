"""The modules that the built model accepts adapters for, according to vLLM itself.

vLLM's own check compares only the last part of a module's name. An adapter for a layer that the model does not have, or
that vLLM does not wrap, is loaded and then ignored. So this module compares the names with vLLM's layers.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

from tritonode.vllm.lora import lora_layers, skips_lora_tensor, tensor_module
from tritonode.vllm.platform import is_cpu

from .checkpoint import Sizes, fits, misfit, other_vocabulary
from .tensors import Tensors, layout_of, made_for, of_experts


@dataclass(eq=False)
class ModelModules:
    """The modules of a model as adapters name them, after vLLM's mapping of names."""

    # Module → rows and columns of its weight; None if vLLM does not say (a layer split over ranks).
    sizes: dict[str, Sizes] = field(default_factory=dict)
    # Mixtures of experts that vLLM has wrapped.
    experts: set[str] = field(default_factory=set)
    # Heads that an adapter may contain completely (`modules_to_save`).
    heads: set[str] = field(default_factory=set)
    # vLLM's mapping of a checkpoint's names to its own, and prefixes of names that it does not load.
    mapper: Any = None
    skipped: list[str] = field(default_factory=list)
    # Pooling models are found with and without the prefix "model.".
    pooling: bool = False

    def add(self, other: ModelModules) -> None:
        """Add the modules of another rank: with pipeline parallelism each rank has its own layers."""
        for module, sizes in other.sizes.items():
            self.sizes.setdefault(module, sizes)
        self.experts |= other.experts
        self.heads |= other.heads


def look_at(manager: Any) -> ModelModules:
    """The modules of vLLM's LoRA manager; in the process that holds the model."""
    layers = lora_layers(manager)
    modules = ModelModules(
        heads=set(layers.heads), mapper=layers.mapper, skipped=list(layers.skipped), pooling=layers.pooling
    )
    for name, layer in layers.wrapped.items():
        if of_experts(name) and name.endswith(".experts"):
            modules.experts.add(name)
            continue
        parts = layers.packed.get(name) or [name]
        sizes = _sizes(layer)
        if len(sizes) != len(parts):
            sizes = [(None, None)] * len(parts)
        modules.sizes.update(zip(parts, sizes, strict=True))
    return modules


def _sizes(layer: Any) -> list[Sizes]:
    """Return the rows and columns of each weight that a LoRA layer replaces."""
    a, b = layer.lora_a_stacked, layer.lora_b_stacked
    if getattr(layer, "tp_size", 1) != 1:
        return []
    if hasattr(a, "dim"):
        # Embeddings keep A as a table of their inputs.
        return [(a.shape[-2], b.shape[-2]) if a.dim() == 3 else (b.shape[-2], a.shape[-1])]
    return [(rows.shape[-2], columns.shape[-1]) for columns, rows in zip(a, b, strict=True)]


@lru_cache(maxsize=256)
def model_problems(tensors: Tensors, modules: ModelModules) -> tuple[str, ...]:
    """Return the parts of an adapter that vLLM would ignore on this model. Equal descriptions are checked once."""
    layout, problems = layout_of(tensors), []
    if layout.heads - modules.heads:
        problems.append(
            f"modules_to_save {sorted(layout.heads)}: this model has no such head that an adapter may replace "
            "(vLLM takes one for classifiers)"
        )
    for module, sides in layout.pairs.items():
        # The whole name of a tensor, because a mapping may use all of it.
        tensor = f"base_model.model.{module}.lora_A.weight"
        if skips_lora_tensor(tensor, modules.skipped):
            continue
        try:
            name, _ = tensor_module(tensor, modules.mapper)
        except ValueError as failure:
            problems.append(f"{module}: {failure}")
            continue
        if of_experts(name):
            if not any(name.startswith(experts) for experts in modules.experts):
                problems.append(_no_experts(module))
            continue
        sizes = modules.sizes.get(name) or (modules.sizes.get(f"model.{name}") if modules.pooling else None)
        made = made_for(module, sides)
        if sizes is None:
            problems.append(f"this model has no module '{module}' that vLLM accepts adapters for")
        elif made is not None and not fits(made, sizes):
            problems.append(misfit(module, made, sizes))
    for module, shape in layout.copies.items():
        name, _ = tensor_module(f"base_model.model.{module}.lora_A.weight", modules.mapper)
        rows = modules.sizes.get(name, (None, None))[0]
        if rows is not None and shape[:1] != (rows,):
            problems.append(other_vocabulary(module, shape, rows))
    return tuple(problems[:4])


def _no_experts(module: str) -> str:
    if is_cpu():
        return f"{module}: adapters of a mixture's experts are not served on the CPU; vLLM has kernels for GPUs alone"
    return f"this model has no experts '{module}' that vLLM takes adapters on"
