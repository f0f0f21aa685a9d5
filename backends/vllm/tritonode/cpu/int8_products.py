"""Says when a W8A8 model is served by int8 products that this processor computes wrongly.

Without VNNI, oneDNN, which vLLM uses, adds two products of 8 bits in 16 bits with saturation: on a processor with AVX2
alone, products of vLLM's were off by up to 24% of the largest. This package's kernels are right there, but several
ranks, mixtures of experts and the variables that choose vLLM's kernels leave W8A8 to vLLM.
"""

from __future__ import annotations

import logging
import os
import platform
from pathlib import Path
from typing import Any

import torch

from . import checkpoint_layers, linear_layers

logger = logging.getLogger("vllm.tritonode.linear")


def warn(model_config: Any) -> None:
    """Log a warning if the model's int8 products are wrong here.

    Args:
        model_config: vLLM's, of the loaded model.
    """
    if are_exact() or not left_to_vllm(model_config.quantization, _quantisation(model_config)):
        return
    variables = [
        name for name in (linear_layers.VARIABLE, checkpoint_layers.VARIABLE) if os.environ.get(name) == "vllm"
    ]
    remedy = f"unset {' and '.join(variables)}" if variables else "use weights with 16-bit activations (W8A16)"
    logger.warning(
        "This model's W8A8 layers run on vLLM's int8 kernels, which saturate on a processor without VNNI: its answers "
        "may be wrong. To avoid it, %s.",
        remedy,
    )


def left_to_vllm(quantization: str | None, config: dict[str, Any]) -> bool:
    """Whether a checkpoint's layers multiply int8 by int8 in vLLM's kernels.

    Args:
        quantization: vLLM's name of the format that it loaded the checkpoint as.
        config: the checkpoint's `quantization_config`.
    """
    groups = config.get("config_groups")
    if quantization != "compressed-tensors" or not isinstance(groups, dict):
        return False
    int8 = ("int", 8)

    def of(group: Any, side: str) -> tuple[Any, Any]:
        numbers = group.get(side) or {}
        return numbers.get("type"), numbers.get("num_bits")

    return any(of(group, "weights") == int8 == of(group, "input_activations") for group in groups.values())


def are_exact() -> bool:
    """Whether oneDNN's int8 products do not saturate on this processor."""
    if platform.machine() not in ("x86_64", "AMD64"):
        return True
    return bool(torch.cpu._is_vnni_supported()) or _has_avx_vnni()


def _has_avx_vnni() -> bool:
    """Whether the processor has VNNI without AVX-512, which torch has no question for."""
    try:
        return " avx_vnni" in Path("/proc/cpuinfo").read_text("ascii", errors="replace")
    except OSError:
        return False


def _quantisation(model_config: Any) -> dict[str, Any]:
    for config in (model_config.hf_config, model_config.hf_text_config):
        # An older name of compressed-tensors is the second.
        for name in ("quantization_config", "compression_config"):
            found = getattr(config, name, None)
            if isinstance(found, dict):
                return found
    return {}
