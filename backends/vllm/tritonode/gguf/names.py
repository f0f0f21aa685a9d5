"""Maps the names of tensors in GGUF files to those in Hugging Face's checkpoints.

The names are llama.cpp's (`LLM_TENSOR_NAMES`, llama-arch.cpp; `tensor_mapping.py` of its Python package).
"""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np

from .config import architecture
from .reader import GgufError, GgufFile, GgufTensor

_WHOLE = {
    "token_embd.weight": "model.embed_tokens.weight",
    "output_norm.weight": "model.norm.weight",
    "output.weight": "lm_head.weight",
}
# Read with the configuration.
_SETTINGS = frozenset({"rope_freqs.weight", "rope_factors_long.weight", "rope_factors_short.weight"})
_SPLIT_ATTENTION = {
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
}
_SPLIT_MLP = {"ffn_gate": "mlp.gate_proj", "ffn_up": "mlp.up_proj", "ffn_down": "mlp.down_proj"}
_PLAIN = {"attn_norm": "input_layernorm", "ffn_norm": "post_attention_layernorm", **_SPLIT_ATTENTION, **_SPLIT_MLP}
_QK_NORMS = {"attn_q_norm": "self_attn.q_norm", "attn_k_norm": "self_attn.k_norm"}
_GEMMA = {
    **_PLAIN,
    "post_attention_norm": "post_attention_layernorm",
    "ffn_norm": "pre_feedforward_layernorm",
    "post_ffw_norm": "post_feedforward_layernorm",
}
_IN_LAYERS = {
    "llama": _PLAIN,
    "qwen2": _PLAIN,
    "qwen3": {**_PLAIN, **_QK_NORMS},
    "gemma2": _GEMMA,
    "gemma3": {**_GEMMA, **_QK_NORMS},
    "phi3": {
        "attn_norm": "input_layernorm",
        "ffn_norm": "post_attention_layernorm",
        "attn_qkv": "self_attn.qkv_proj",
        "attn_output": "self_attn.o_proj",
        "ffn_up": "mlp.gate_up_proj",
        "ffn_down": "mlp.down_proj",
    },
}
_LAYER = re.compile(r"blk\.(0|[1-9][0-9]{0,4})\.([a-z_]+)\.(weight|bias)")


@dataclass(frozen=True)
class NamedTensor:
    """A tensor with its name in Hugging Face's checkpoints, and the changes that llama.cpp has made to it."""

    name: str
    tensor: GgufTensor
    heads: int = 0
    """The number of heads whose rows were reordered (see `original_rows`), or 0."""
    added: float = 0.0
    """The number that was added to each element."""


def named_tensors(file: GgufFile) -> list[NamedTensor]:
    """Return all tensors in the file's order. Raises GgufError for one that the architecture does not have."""
    kind = architecture(file)
    found = []
    heads = file.whole(f"{kind}.attention.head_count") or 0
    kv_heads = file.whole(f"{kind}.attention.head_count_kv") or heads
    for tensor in file.tensors.values():
        if tensor.name in _SETTINGS:
            continue
        name = _WHOLE.get(tensor.name)
        split = 0
        matched = _LAYER.fullmatch(tensor.name)
        if matched and matched[2] in _IN_LAYERS[kind]:
            name = f"model.layers.{matched[1]}.{_IN_LAYERS[kind][matched[2]]}.{matched[3]}"
            if kind == "llama":
                # The rotary embedding pairs neighbouring rows in llama.cpp, and the halves of a head in transformers.
                split = {"attn_q": heads, "attn_k": kv_heads}.get(matched[2], 0)
        if name is None:
            raise GgufError(f"{file.path}: a model of the architecture '{kind}' has no tensor {tensor.name!r}")
        if split and tensor.shape[0] % (2 * split):
            raise GgufError(f"{file.path}: {tensor.name!r} has {tensor.shape[0]} rows, not those of {split} heads")
        # Gemma's norms multiply by the weight plus one; llama.cpp stores the sum.
        added = 1.0 if kind.startswith("gemma") and tensor.name.endswith("norm.weight") else 0.0
        found.append(NamedTensor(name, tensor, split, added))
    return found


def original_rows(rows: int, heads: int) -> np.ndarray:
    """Return, for each row of LLaMA's original query or key weight, its index in llama.cpp's order."""
    return np.arange(rows).reshape(heads, rows // heads // 2, 2).swapaxes(1, 2).reshape(rows)
