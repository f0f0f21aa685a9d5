"""What the tensors of an adapter's file are for, told from their names and shapes (PEFT's layout)."""

from __future__ import annotations

import re
from dataclasses import dataclass, field

_TENSOR_NAME = re.compile(r"^(?:base_model\.model\.)?(?P<module>.+)\.lora_(?P<side>A|B)(?:\.[^.]+)?\.weight$")
_EMBEDDING_NAME = re.compile(r"^(?:base_model\.model\.)?(?P<module>.+)\.lora_embedding_(?P<side>A|B)(?:\.[^.]+)?$")
# What vLLM takes as a whole: the head of a classifier.
HEADS = ("score", "classifier")
_HEAD_NAME = re.compile(r"^(?:base_model\.model\.)?(?:.+\.)?(?P<module>score|classifier)\.(?:weight|bias)$")
# PEFT saves the base model's embeddings beside an adapter of them; vLLM uses those of the base model.
_EMBEDDING_COPY = re.compile(r"^(?:base_model\.model\.)?(?P<module>.*\b(?:embed_tokens|lm_head))\.base_layer\.weight$")

Shape = tuple[int, ...]
# As in the safetensors header: the tensors' names and shapes.
Tensors = tuple[tuple[str, Shape], ...]


@dataclass
class Layout:
    """The tensors of one adapter, by what they are for. Names of modules are PEFT's, without `base_model.model.`."""

    # Module → its two sides ("A" and "B") with their shapes.
    pairs: dict[str, dict[str, Shape]] = field(default_factory=dict)
    # Whole heads, as `modules_to_save` brings them.
    heads: set[str] = field(default_factory=set)
    # Copies of the base model's embeddings, with their shapes.
    copies: dict[str, Shape] = field(default_factory=dict)
    strangers: list[str] = field(default_factory=list)


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
            layout.strangers.append(name)
    return layout


def of_experts(module: str) -> bool:
    """Whether a module is (in) the experts of a mixture: their tensors hold many experts' at once."""
    return ".experts" in f".{module}"


def made_for(module: str, sides: dict[str, Shape]) -> tuple[int, int] | None:
    """(rows, columns) of the base weight that a pair of tensors was made for; None where the pair is not whole."""
    a, b = sides.get("A", ()), sides.get("B", ())
    if len(a) != 2 or len(b) != 2:
        return None
    # An embedding's weight is a table: its rows are the inputs.
    return (a[1], b[0]) if module.rsplit(".", 1)[-1] == "embed_tokens" else (b[0], a[1])
