"""Limits the layers that vLLM wraps for LoRA on a CPU to those for which it has CPU kernels."""

from __future__ import annotations

import functools
from typing import Any

import torch

from tritonode.vllm.layers import FusedMoE3DWithLoRA, FusedMoEConfig, FusedMoEWithLoRA, base_linear


def leave_experts_alone() -> None:
    """Keep vLLM from wrapping the layers of mixtures of experts for LoRA, and from choosing other kernels for them.

    vLLM does both for every model that is loaded with LoRA, whether or not an adapter changes the experts, and those
    kernels need Triton (the compiler), which a CPU does not have. Here the experts run as they do without LoRA. An
    adapter that changes them is refused by name when its files are checked (`tritonode.lora.modules`).
    """
    config_class: Any = FusedMoEConfig
    settle = config_class.__post_init__

    @functools.wraps(settle)
    def settle_without_lora(self: Any) -> None:
        self.is_lora_enabled = False
        settle(self)

    config_class.__post_init__ = settle_without_lora
    for layer_class in (FusedMoEWithLoRA, FusedMoE3DWithLoRA):
        wrapper: Any = layer_class
        original = wrapper.can_replace_layer.__func__
        wrapper.can_replace_layer = classmethod(functools.wraps(original)(lambda cls, **_: False))


def keep_adapters_on_the_cpu() -> None:
    """Return the device of a layer's adapters without reading the layer's weight.

    The 8-bit kernels of oneDNN remove the weight from its layer, and vLLM's LoRA code then fails to read its device.
    """
    linear: Any = base_linear
    linear._get_lora_device = functools.wraps(linear._get_lora_device)(lambda _layer: torch.device("cpu"))
