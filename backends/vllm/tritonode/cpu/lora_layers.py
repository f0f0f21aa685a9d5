"""Which layers vLLM wraps for LoRA on a CPU: all it can compute there, and none of the others."""

from __future__ import annotations

import functools
from typing import Any


def leave_experts_alone() -> None:
    """Keep vLLM from wrapping a mixture's experts for LoRA, and from choosing their kernels by it.

    It does both for every model that is loaded with LoRA, whether or not an adapter touches the experts, and the
    kernels are Triton's, which a CPU does not have. Here the experts stay what they are without LoRA; an adapter that
    does touch them is refused by name when its files are checked (`tritonode.lora.modules`).
    """
    from vllm.lora.layers import FusedMoE3DWithLoRA, FusedMoEWithLoRA
    from vllm.model_executor.layers.fused_moe.config import FusedMoEConfig

    config_class: Any = FusedMoEConfig
    settle = config_class.__post_init__

    @functools.wraps(settle)
    def settle_without_lora(self: Any) -> None:
        self.is_lora_enabled = False
        settle(self)

    config_class.__post_init__ = settle_without_lora
    for layer_class in (FusedMoEWithLoRA, FusedMoE3DWithLoRA):
        wrapper: Any = layer_class
        wrapper.can_replace_layer = classmethod(lambda cls, **_: False)


def keep_adapters_on_the_cpu() -> None:
    """Say where a layer's adapters belong without asking for its weight.

    The 8-bit kernels of oneDNN take the weight out of its layer, and vLLM's LoRA code then fails at its device.
    """
    import torch
    from vllm.lora.layers import base_linear

    linear: Any = base_linear
    linear._get_lora_device = lambda _layer: torch.device("cpu")
