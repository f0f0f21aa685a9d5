"""Sort the tensors of an adapter's file by purpose, from their names and shapes (PEFT's layout)."""

from __future__ import annotations

import re
from dataclasses import dataclass, field

_TENSOR_NAME = re.compile(r"^(?:base_model\.model\.)?(?P<module>.+)\.lora_(?P<side>A|B)(?:\.[^.]+)?\.weight$")
_EMBEDDING_NAME = re.compile(r"^(?:base_model\.model\.)?(?P<module>.+)\.lora_embedding_(?P<side>A|B)(?:\.[^.]+)?$")
# Modules that vLLM replaces by the adapter's copy: a classifier's head.
HEADS = ("score", "classifier")
_HEAD_NAME = re.compile(r"^(?:base_model\.model\.)?(?:.+\.)?(?P<module>score|classifier)\.(?:weight|bias)$")
# With an adapter of the embeddings PEFT also saves the base model's embeddings; vLLM uses those of its base model.
_EMBEDDING_COPY = re.compile(r"^(?:base_model\.model\.)?(?P<module>.*\b(?:embed_tokens|lm_head))\.base_layer\.weight$")

Shape = tuple[int, ...]
# Names and shapes of the tensors, as in the safetensors header.
Tensors = tuple[tuple[str, Shape], ...]


@dataclass
class Layout:
    """The tensors of one adapter, by purpose. Module names are PEFT's, without `base_model.model.`."""

    # Module → shapes of its lora_A ("A") and lora_B ("B").
    pairs: dict[str, dict[str, Shape]] = field(default_factory=dict)
    # Complete heads, from `modules_to_save`.
    heads: set[str] = field(default_factory=set)
    # Copies of the base model's embeddings, with their shapes.
    copies: dict[str, Shape] = field(default_factory=dict)
    # Names of all other tensors.
    unknown: list[str] = field(default_factory=list)


def layout_of(tensors: Tensors) -> Layout:
    layout = Layout()
    for name, shape in tensors:
        if copy := _EMBEDDING_COPY.match(name):
            layout.copies[copy["module"]] = shape
        elif pair := _TENSOR_NAME.match(name) or _EMBEDDING_NAME.match(name):
            layout.pairs.setdefault(pair["module"], {})[pair["side"]] = shape
        elif head := _HEAD_NAME.match(name):
            layout.heads.add(head["module"])
        else:
            layout.unknown.append(name)
    return layout


def of_experts(module: str) -> bool:
    """Whether a module belongs to a mixture of experts, where one tensor can hold the weights of many experts."""
    return ".experts" in f".{module}"


def made_for(module: str, sides: dict[str, Shape]) -> tuple[int, int] | None:
    """Return (rows, columns) of the base weight that a pair of tensors was made for; None if one of them is missing."""
    a, b = sides.get("A", ()), sides.get("B", ())
    if len(a) != 2 or len(b) != 2:
        return None
    # The rows of an embedding's weight are its inputs.
    return (a[1], b[0]) if module.rsplit(".", 1)[-1] == "embed_tokens" else (b[0], a[1])
