"""What a CPU engine that is not compiled need not pay.

vLLM's CPU platform counts on ``torch.compile`` to fuse the small operators of a layer, and turns it off for engines
with LoRA. Compiling costs the better part of a minute at each start, so here the uncompiled engine gets cheaper
instead, through vLLM's own extension points:

* an RMS norm is one call of ``libtritonode_punica``, registered with vLLM's IR (``register_impl`` and
  ``kernel_config.ir_op_priority``), instead of a dozen operators of torch. (vLLM has a C++ kernel too, but it wakes the
  thread team for a single row, which takes longer than the norm.)
* SwiGLU's activation likewise, as an out-of-tree ``SiluAndMul`` (``CustomOp.register_oot``): torch's ``silu`` of a long
  prompt in bfloat16 takes about as long as the projection before it;
* the rotary embedding of a few rows likewise: vLLM's kernel wakes the thread team for it;
* attention is called directly (``opaque_attention_op``), not as an operator that only a compiler needs;
* a LoRA layer whose base is a plain unquantised matrix goes from its input to its output in one Python frame.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from collections.abc import Callable

    from vllm.config import VllmConfig

PROVIDER = "tritonode"
FEW_ROWS = 32
"""Up to here one thread turns a layer's heads sooner than several would start."""


def uncompiled_lora(vllm_config: VllmConfig | None) -> bool:
    """Tell whether a configuration is of an engine with LoRA that runs without torch.compile."""
    from vllm.config import CompilationMode

    return (
        vllm_config is not None
        and vllm_config.lora_config is not None
        and vllm_config.compilation_config.mode == CompilationMode.NONE
    )


def extend_platform(platform_class: Any) -> None:
    """Add to the CPU platform what this module describes, for engines that :func:`uncompiled_lora` is true of."""
    from vllm.config import get_current_vllm_config_or_none

    _register_norms()
    _register_activation()
    _register_rotary()
    opaque_attention = platform_class.opaque_attention_op

    def opaque_attention_op(cls: type) -> bool:
        return opaque_attention() and not uncompiled_lora(get_current_vllm_config_or_none())

    platform_class.opaque_attention_op = classmethod(opaque_attention_op)


def settle(vllm_config: VllmConfig) -> None:
    """Choose the operators of an engine that :func:`uncompiled_lora` is true of.

    vLLM resolves its own choice while the engine still counts as compiled: then custom operators are off and norms are
    left to a compiler that never comes.
    """
    custom_ops = vllm_config.compilation_config.custom_ops
    if "none" in custom_ops:
        custom_ops[custom_ops.index("none")] = "all"
    priority = vllm_config.kernel_config.ir_op_priority
    for name in ("rms_norm", "fused_add_rms_norm"):
        chosen = getattr(priority, name) or ["native"]
        if PROVIDER not in chosen:
            setattr(priority, name, [PROVIDER, *chosen])


def _register_norms() -> None:
    from vllm import ir

    def plain(x: torch.Tensor, weight: torch.Tensor | None, variance_size: int | None) -> bool:
        return (
            variance_size is None
            and weight is not None
            and weight.dtype == x.dtype
            and x.dim() == 2
            and x.is_contiguous()
            and x.device.type == "cpu"
        )

    @ir.ops.rms_norm.register_impl(
        PROVIDER, supports_args=lambda x, weight, epsilon, variance_size=None: plain(x, weight, variance_size)
    )
    def rms_norm(
        x: torch.Tensor, weight: torch.Tensor | None, epsilon: float, variance_size: int | None = None
    ) -> torch.Tensor:
        out = torch.empty_like(x)
        torch.ops.tritonode_punica.rms_norm_(out, x, weight, epsilon)
        return out

    @ir.ops.fused_add_rms_norm.register_impl(
        PROVIDER,
        supports_args=lambda x, x_residual, weight, epsilon, variance_size=None: (
            plain(x, weight, variance_size) and x_residual.is_contiguous() and x_residual.dtype == x.dtype
        ),
        inplace=True,
    )
    def fused_add_rms_norm(
        x: torch.Tensor,
        x_residual: torch.Tensor,
        weight: torch.Tensor | None,
        epsilon: float,
        variance_size: int | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        torch.ops.tritonode_punica.fused_add_rms_norm_(x, x_residual, weight, epsilon)
        return x, x_residual


def _register_activation() -> None:
    from vllm.model_executor.custom_op import op_registry_oot
    from vllm.model_executor.layers.activation import SiluAndMul

    if "SiluAndMul" in op_registry_oot:
        return  # somebody else's

    @SiluAndMul.register_oot(name="SiluAndMul")
    class SiluAndMulCpu(SiluAndMul):  # type: ignore[misc]
        def forward_cpu(self, x: torch.Tensor) -> torch.Tensor:
            if x.dim() != 2 or not x.is_contiguous() or x.dtype not in _DTYPES:
                return self.forward_native(x)
            out = torch.empty((x.size(0), x.size(1) // 2), dtype=x.dtype)
            torch.ops.tritonode_punica.silu_and_mul_(out, x)
            return out


def _register_rotary() -> None:
    from vllm.model_executor.custom_op import op_registry_oot
    from vllm.model_executor.layers.rotary_embedding import RotaryEmbedding

    if "RotaryEmbedding" in op_registry_oot:
        return  # somebody else's

    @RotaryEmbedding.register_oot(name="RotaryEmbedding")
    class RotaryEmbeddingCpu(RotaryEmbedding):  # type: ignore[misc]
        def forward_cpu(
            self, positions: torch.Tensor, query: torch.Tensor, key: torch.Tensor | None = None
        ) -> tuple[torch.Tensor, torch.Tensor | None]:
            if (
                key is None
                or query.dim() != 2
                or query.size(0) > FEW_ROWS
                or positions.dim() != 1
                or self.rotary_dim != self.head_size
                or not self.is_neox_style
                or query.dtype not in _DTYPES
            ):
                return super().forward_cpu(positions, query, key)
            cos_sin = self._match_cos_sin_cache_dtype(query)
            torch.ops.tritonode_punica.rope_(query, key, positions, cos_sin, self.head_size)
            return query, key


_DTYPES = (torch.float32, torch.float16, torch.bfloat16)


def _matrix_of(linear: Any) -> Any:
    """Return the oneDNN matrix that a layer's ``cpu_linear`` multiplies by (vLLM keeps it in the closure), or None."""
    from vllm._custom_ops import CPUDNNLGEMMHandler

    cells = [cell.cell_contents for cell in getattr(linear, "__closure__", None) or ()]
    return cells[0] if len(cells) == 1 and type(cells[0]) is CPUDNNLGEMMHandler else None


def direct_forward(
    layer: Any, add_lora: Callable[..., Any], rows: int, flags: bytearray, flag: int
) -> Callable[..., Any] | None:
    """Return a ``forward`` for a LoRA layer that skips what a plain layer does not need, or None if it needs it.

    Args:
        layer: a LoRA layer that has its weights.
        add_lora: the operator ``tritonode_punica::lora_``.
        rows: which rows it works on (``TOKENS``).
        flags: ``flags[flag]`` is zero while no row of the step has an adapter that touches this layer.
        flag: this layer's place in `flags`.
    """
    from vllm.lora.layers.column_parallel_linear import (
        ColumnParallelLinearWithLoRA,
        MergedColumnParallelLinearWithLoRA,
        MergedQKVParallelLinearWithLoRA,
        QKVParallelLinearWithLoRA,
    )
    from vllm.lora.layers.row_parallel_linear import RowParallelLinearWithLoRA
    from vllm.model_executor.layers.linear import (
        ColumnParallelLinear,
        MergedColumnParallelLinear,
        QKVParallelLinear,
        RowParallelLinear,
        UnquantizedLinearMethod,
    )

    known = (
        ColumnParallelLinearWithLoRA,
        MergedColumnParallelLinearWithLoRA,
        QKVParallelLinearWithLoRA,
        MergedQKVParallelLinearWithLoRA,
        RowParallelLinearWithLoRA,
    )
    bases = (ColumnParallelLinear, MergedColumnParallelLinear, QKVParallelLinear, RowParallelLinear)
    base: Any = getattr(layer, "base_layer", None)
    # Exact types: a subclass may have a forward of its own.
    if type(layer) not in known or type(base) not in bases or layer.tp_size != 1:
        return None
    linear = getattr(base, "cpu_linear", None)
    if type(base.quant_method) is not UnquantizedLinearMethod or linear is None:
        return None
    if type(base) is RowParallelLinear and not base.input_is_parallel:
        return None
    weight, bias, weights = base.weight, base.bias, layer.lora_a_stacked[0]
    own_bias = None if base.skip_bias_add else bias
    returned_bias = bias if base.skip_bias_add else None
    return_bias = base.return_bias
    slow = layer.forward

    matrix = _matrix_of(linear)
    if matrix is None:

        def forward(input_: torch.Tensor) -> Any:
            if input_.dim() != 2 or base.cpu_linear is not linear:
                return slow(input_)
            output = linear(input_, weight, own_bias)
            if flags[flag]:
                add_lora(output, input_, weights, rows, 1.0)
            return (output, returned_bias) if return_bias else output

        return forward

    columns, handle, multiply = matrix.n, matrix.handler_tensor, torch.ops._C.onednn_mm.default

    def forward_onednn(input_: torch.Tensor) -> Any:
        # Weights that were loaded anew have another matrix; ours is kept alive by `linear`.
        if input_.dim() != 2 or not input_.is_contiguous() or base.cpu_linear is not linear:
            return slow(input_)
        # As vllm._custom_ops.onednn_mm does, for a matrix.
        output = input_.new_empty((input_.size(0), columns))
        multiply(output, input_, own_bias, handle)
        if flags[flag]:
            add_lora(output, input_, weights, rows, 1.0)
        return (output, returned_bias) if return_bias else output

    return forward_onednn
