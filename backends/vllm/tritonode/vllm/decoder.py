"""vLLM's decoders on a CPU: which classes are computed in one call, and what a step's forward reads.

This imports much of vLLM, so only code that builds an engine imports this module.
"""

from __future__ import annotations

import functools
import itertools
import operator
from collections.abc import Callable, Iterator
from typing import Any

from vllm.forward_context import get_forward_context, is_forward_context_available
from vllm.v1.worker.cpu_model_runner import CPUModelRunner

__all__ = ["attention_metadata", "class_name", "decoders", "kv_cache", "when_loaded"]

_MODELS = "vllm.model_executor.models."
DECODERS = {
    f"{_MODELS}llama.LlamaModel": f"{_MODELS}llama.LlamaDecoderLayer",
    f"{_MODELS}mistral.MistralModel": f"{_MODELS}mistral.MistralDecoderLayer",
    f"{_MODELS}qwen2.Qwen2Model": f"{_MODELS}qwen2.Qwen2DecoderLayer",
    f"{_MODELS}qwen3.Qwen3Model": f"{_MODELS}qwen3.Qwen3DecoderLayer",
}
"""A decoder's class and its layers'. Names, because importing a model's module that is not served takes time."""
ATTENTION = tuple(
    f"{_MODELS}{name}"
    for name in ("llama.LlamaAttention", "mistral.MistralAttention", "qwen2.Qwen2Attention", "qwen3.Qwen3Attention")
)
MLPS = tuple(f"{_MODELS}{name}" for name in ("llama.LlamaMLP", "mistral.MistralMLP", "qwen2.Qwen2MLP"))


def class_name(instance: object) -> str:
    """The name of a class, with its module."""
    return f"{type(instance).__module__}.{type(instance).__qualname__}"


def decoders(model: Any) -> Iterator[Any]:
    """The parts of a model that are a decoder of a known class. Exactly: a subclass may compute something else."""
    return (module for module in model.modules() if class_name(module) in DECODERS)


def when_loaded(call: Callable[[Any], None]) -> None:
    """Have `call` called with each model runner that has loaded its model, with its LoRA layers, on a CPU."""
    runner_class: Any = CPUModelRunner
    load_model = runner_class.load_model

    @functools.wraps(load_model)
    def load_model_and_call(self: Any, *arguments: Any, **options: Any) -> None:
        load_model(self, *arguments, **options)
        call(self)

    runner_class.load_model = load_model_and_call


def attention_metadata(names: list[str]) -> Any:
    """What attention knows of the step, where it is one object for all layers of these names; else None."""
    if not is_forward_context_available():
        return None
    by_layer = get_forward_context().attn_metadata
    if not isinstance(by_layer, dict):
        return None  # while vLLM warms up, or in micro-batches
    first = by_layer.get(names[0])
    if first is None or not all(map(operator.is_, map(by_layer.get, names), itertools.repeat(first))):
        return None
    return first


def kv_cache(attention: Any) -> Any:
    """The KV cache of an attention layer; before 0.29 vLLM keeps it in a list."""
    cache = attention.kv_cache
    return cache[0] if isinstance(cache, list) else cache
