"""Converts a GGUF file's metadata to the configuration that Hugging Face's checkpoints have in `config.json`.

The keys are those of the GGUF specification and of llama.cpp's `LLM_KV` (llama-arch.cpp); what llama.cpp fixes in code
for an architecture, and a configuration says, is from its loader (llama-model.cpp).
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from .reader import GgufError, GgufFile
from .types import TensorType

# Architecture of GGUF → `model_type` and class of transformers and vLLM.
ARCHITECTURES = {
    "llama": ("llama", "LlamaForCausalLM"),
    "qwen2": ("qwen2", "Qwen2ForCausalLM"),
    "qwen3": ("qwen3", "Qwen3ForCausalLM"),
    "gemma2": ("gemma2", "Gemma2ForCausalLM"),
    "gemma3": ("gemma3_text", "Gemma3ForCausalLM"),
    "phi3": ("phi3", "Phi3ForCausalLM"),
}
_GEMMA = ("gemma2", "gemma3")
_LAYERS_OF_GEMMA_2_27B = 46
_LAYERS_OF_GEMMA_3_27B = 62
# LLaMA 3's scaling of the rotary embedding; the file contains only the resulting factors.
_LLAMA3_LOW, _LLAMA3_HIGH, _LLAMA3_CONTEXT = 1.0, 4.0, 8192


def architecture(file: GgufFile) -> str:
    """Return the file's architecture. Raises GgufError if it is not supported, and for a file in several parts."""
    parts = file.whole("split.count", most=0xFFFF) or 1
    if parts > 1:
        raise GgufError(
            f"{file.path} is one of {parts} parts: join them with llama.cpp's `llama-gguf-split --merge` first"
        )
    name = file.text("general.architecture")
    if name not in ARCHITECTURES:
        raise GgufError(
            f"{file.path}: the architecture {str(name)[:80]!r} is not served from GGUF files; "
            f"these are: {', '.join(ARCHITECTURES)}. Use the model's Hugging Face folder instead"
        )
    return name


def make_config(file: GgufFile) -> dict[str, Any]:
    """Return the contents of `config.json`. Raises GgufError for metadata that is missing or invalid."""
    name = architecture(file)
    return _Reader(file, name).config()


class _Reader:
    def __init__(self, file: GgufFile, name: str) -> None:
        self._file = file
        self._name = name

    def _needed(self, key: str, most: int = 1 << 24) -> int:
        full = f"{self._name}.{key}"
        value = self._file.metadata.get(full)
        if isinstance(value, np.ndarray) and value.size and value.dtype.kind in "iu" and (value == value[0]).all():
            # One number for each layer; for vLLM, models whose layers differ are another architecture.
            value = int(value[0])
            if 1 <= value <= most:
                return value
        found = self._file.whole(full, least=1, most=most)
        if found is None:
            raise GgufError(f"{self._file.path}: the metadata has no '{full}'")
        return found

    def _optional(self, key: str, least: float = 0.0, most: float = 1e12) -> float | None:
        return self._file.number(f"{self._name}.{key}", least=least, most=most)

    def config(self) -> dict[str, Any]:
        file, name = self._file, self._name
        embedding = file.tensors.get("token_embd.weight")
        if embedding is None or len(embedding.shape) != 2:
            raise GgufError(f"{file.path} has no tensor 'token_embd.weight' of rows: it holds no language model")
        layers, heads = self._needed("block_count", 4096), self._needed("attention.head_count", 1 << 16)
        hidden = self._needed("embedding_length")
        if embedding.shape[1] != hidden:
            raise GgufError(
                f"{file.path}: '{name}.embedding_length' is {hidden}, but the rows of 'token_embd.weight' have "
                f"{embedding.shape[1]} elements"
            )
        head_size = self._head_size(hidden, heads)
        model_type, class_name = ARCHITECTURES[name]
        epsilon = self._optional("attention.layer_norm_rms_epsilon", most=1.0)
        config: dict[str, Any] = {
            "architectures": [class_name],
            "model_type": model_type,
            "vocab_size": embedding.shape[0],
            "hidden_size": hidden,
            "intermediate_size": self._needed("feed_forward_length"),
            "num_hidden_layers": layers,
            "num_attention_heads": heads,
            "num_key_value_heads": self._kv_heads(heads),
            "head_dim": head_size,
            "max_position_embeddings": self._needed("context_length", 1 << 31),
            "rms_norm_eps": 1e-6 if epsilon is None else _shortest(epsilon),
            "tie_word_embeddings": "output.weight" not in file.tensors,
            "dtype": _dtype(embedding.type),
            **self._tokens(),
        }
        own = {"llama": self._llama, "qwen2": self._qwen, "qwen3": self._qwen, "phi3": self._phi}
        config |= own[name](head_size) if name in own else self._gemma(layers, heads, hidden, head_size)
        return config

    def _head_size(self, hidden: int, heads: int) -> int:
        key, value = self._optional("attention.key_length"), self._optional("attention.value_length")
        if key is not None and value is not None and key != value:
            raise GgufError(f"{self._file.path}: keys of {key} and values of {value} elements are not served")
        if key is None and hidden % heads:
            raise GgufError(f"{self._file.path}: {heads} heads do not divide an embedding of {hidden}")
        size = hidden // heads if key is None else int(key)
        if not 1 <= size <= 4096:
            raise GgufError(f"{self._file.path}: '{self._name}.attention.key_length' is {size}")
        return size

    def _kv_heads(self, heads: int) -> int:
        if f"{self._name}.attention.head_count_kv" not in self._file.metadata:
            return heads
        kv_heads = self._needed("attention.head_count_kv", heads)
        if heads % kv_heads:
            raise GgufError(f"{self._file.path}: {kv_heads} key-value heads do not divide {heads} heads")
        return kv_heads

    def _tokens(self) -> dict[str, int]:
        names = {"bos_token_id": "bos", "eos_token_id": "eos", "pad_token_id": "padding"}
        found = {key: self._file.whole(f"tokenizer.ggml.{name}_token_id", most=1 << 32) for key, name in names.items()}
        return {key: value for key, value in found.items() if value is not None}

    def _rope(self, scaling: dict[str, Any] | None = None) -> dict[str, Any]:
        theta = self._optional("rope.freq_base", least=1.0)
        return {"rope_type": "default", "rope_theta": 10000.0 if theta is None else theta} | (scaling or {})

    def _scaling(self) -> dict[str, Any] | None:
        """Return the scaling of the rotary embedding that the metadata names."""
        kind = self._file.text(f"{self._name}.rope.scaling.type") or "none"
        factor = self._optional("rope.scaling.factor") or self._optional("rope.scale_linear") or 0.0
        if kind == "none" or factor in (0.0, 1.0):
            return None
        scaling: dict[str, Any] = {"rope_type": kind, "factor": factor}
        if kind == "yarn":
            scaling["original_max_position_embeddings"] = self._needed("rope.scaling.original_context_length", 1 << 31)
        elif kind != "linear":
            raise GgufError(f"{self._file.path}: scaling of the rotary embedding by {kind[:40]!r} is not served")
        return scaling

    def _factors(self, tensor: str, count: int) -> list[float] | None:
        """Return a tensor of factors for the rotary embedding's frequencies."""
        found = self._file.tensors.get(tensor)
        if found is None:
            return None
        if found.type.name != "F32" or found.shape != (count,):
            raise GgufError(f"{self._file.path}: '{tensor}' must be {count} numbers of F32, not {list(found.shape)}")
        values = self._file.read(found).view("<f4").ravel()
        if not (np.isfinite(values).all() and (values > 0).all()):
            raise GgufError(f"{self._file.path}: '{tensor}' holds a number that is not a positive factor")
        return [float(value) for value in values]

    def _llama(self, head_size: int) -> dict[str, Any]:
        file = self._file
        rotated = self._optional("rope.dimension_count")
        if rotated is not None and rotated != head_size:
            raise GgufError(f"{file.path}: heads of {head_size} of which {rotated} are rotated are not served")
        if self._optional("expert_count"):
            raise GgufError(f"{file.path}: mixtures of experts are not served from GGUF files")
        factors = self._factors("rope_freqs.weight", head_size // 2)
        rope = self._rope(self._scaling() if factors is None else self._llama3(factors, head_size))
        biased = "blk.0.attn_q.bias" in file.tensors
        return {"hidden_act": "silu", "rope_parameters": rope, "attention_bias": biased, "mlp_bias": False}

    def _llama3(self, factors: list[float], head_size: int) -> dict[str, Any]:
        """Return the scaling that LLaMA 3's factors were computed from: its `factor` is the greatest of them."""
        factor = round(max(factors), 4)
        theta = float(self._rope()["rope_theta"])
        wanted = []
        for number in range(len(factors)):
            turns = _LLAMA3_CONTEXT * theta ** (-2 * number / head_size) / (2 * math.pi)
            smooth = min(max((turns - _LLAMA3_LOW) / (_LLAMA3_HIGH - _LLAMA3_LOW), 0.0), 1.0)
            wanted.append(1 / ((1 - smooth) / factor + smooth))
        if not np.allclose(wanted, factors, rtol=1e-3):
            raise GgufError(f"{self._file.path}: the factors in 'rope_freqs.weight' are not those of LLaMA 3")
        return {
            "rope_type": "llama3",
            "factor": factor,
            "low_freq_factor": _LLAMA3_LOW,
            "high_freq_factor": _LLAMA3_HIGH,
            "original_max_position_embeddings": _LLAMA3_CONTEXT,
        }

    def _qwen(self, _head_size: int) -> dict[str, Any]:
        config: dict[str, Any] = {"hidden_act": "silu", "rope_parameters": self._rope(self._scaling())}
        return config if self._name == "qwen2" else config | {"attention_bias": False}

    def _phi(self, head_size: int) -> dict[str, Any]:
        rotated = self._needed("rope.dimension_count", head_size)
        config: dict[str, Any] = {"hidden_act": "silu"}
        original = self._file.whole("phi3.rope.scaling.original_context_length", least=1)
        short = self._factors("rope_factors_short.weight", rotated // 2)
        long = self._factors("rope_factors_long.weight", rotated // 2)
        scaling: dict[str, Any] = {}
        if short is not None and long is not None and original is not None:
            scaling = {"rope_type": "longrope", "short_factor": short, "long_factor": long}
            scaling["original_max_position_embeddings"] = original
            config["original_max_position_embeddings"] = original
        scaling["partial_rotary_factor"] = rotated / head_size
        config["rope_parameters"] = self._rope(scaling)
        window = self._optional("attention.sliding_window")
        if window:
            config["sliding_window"] = int(window)
        return config

    def _gemma(self, layers: int, heads: int, hidden: int, head_size: int) -> dict[str, Any]:
        third = self._name == "gemma3"
        # llama.cpp's scale of the attention scores; for other model sizes it follows from the head size.
        largest = layers == (_LAYERS_OF_GEMMA_3_27B if third else _LAYERS_OF_GEMMA_2_27B)
        scalar = hidden // heads if largest else head_size
        every = 6 if third else 2
        kinds = ["full_attention" if (layer + 1) % every == 0 else "sliding_attention" for layer in range(layers)]
        final = self._optional("final_logit_softcapping")
        attention = self._optional("attn_logit_softcapping")
        default = None if third else (30.0, 50.0)
        rope: dict[str, Any] = self._rope(self._scaling())
        if third:
            local = self._optional("rope.freq_base_swa", least=1.0)
            rope = {
                "full_attention": rope,
                "sliding_attention": {"rope_type": "default", "rope_theta": 10000.0 if local is None else local},
            }
        return {
            "hidden_activation": "gelu_pytorch_tanh",
            "attention_bias": False,
            "query_pre_attn_scalar": scalar,
            "sliding_window": self._needed("attention.sliding_window"),
            "layer_types": kinds,
            "rope_parameters": rope,
            "final_logit_softcapping": final or (default and default[0]),
            "attn_logit_softcapping": attention or (default and default[1]),
        }


def _shortest(value: float) -> float:
    """Return the shortest decimal of a float32: 1e-5 for a float32 that Python shows as 9.999999747378752e-06."""
    return float(str(np.float32(value)))


def _dtype(kind: TensorType) -> str:
    """The type that vLLM computes in by default: bfloat16, which CPUs have instructions for."""
    return "float32" if kind.name == "F32" else "bfloat16"
