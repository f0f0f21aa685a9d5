"""Cheaper operators for CPU engines that run without ``torch.compile``.

vLLM's CPU platform relies on ``torch.compile`` to fuse the small operators of a layer, and turns it off for engines
with LoRA; ``enforce_eager`` turns it off too. Compiling takes most of a minute at each start. This module makes the
uncompiled engine faster instead, through vLLM's own extension points:

* an RMS norm is one call of ``libtritonode_punica``, registered with vLLM's IR (``register_impl`` and
  ``kernel_config.ir_op_priority``), instead of a dozen operators of torch. (vLLM has a C++ kernel too, but it wakes the
  thread team for a single row, which takes longer than the norm.)
* SwiGLU's activation likewise, as an out-of-tree ``SiluAndMul`` (``CustomOp.register_oot``): torch's ``silu`` of a long
  prompt in bfloat16 takes about as long as the projection before it;
* the rotary embedding likewise: vLLM's kernel wakes the thread team for a single row;
* attention is called directly (``opaque_attention_op``), not as an operator that only a compiler needs;
* a layer that is a plain unquantised matrix, with LoRA or without, goes from its input to its output in one Python
  frame.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from tritonode.vllm.layers import (
    ColumnParallelLinear,
    ColumnParallelLinearWithLoRA,
    CompilationMode,
    CPUDNNLGEMMHandler,
    Llama3RotaryEmbedding,
    MergedColumnParallelLinear,
    MergedColumnParallelLinearWithLoRA,
    MergedQKVParallelLinearWithLoRA,
    QKVParallelLinear,
    QKVParallelLinearWithLoRA,
    RotaryEmbedding,
    RowParallelLinear,
    RowParallelLinearWithLoRA,
    SiluAndMul,
    UnquantizedLinearMethod,
    VllmConfig,
    VocabParallelEmbeddingWithLoRA,
    get_current_vllm_config_or_none,
    ir,
    op_registry_oot,
)

from .linear_layers import PackedLinear

if TYPE_CHECKING:
    from collections.abc import Callable


PROVIDER = "tritonode"


def uncompiled(vllm_config: VllmConfig | None) -> bool:
    """Return whether a configuration is for an engine that runs without torch.compile."""
    return vllm_config is not None and vllm_config.compilation_config.mode == CompilationMode.NONE


def extend_platform(platform_class: Any, direct: Callable[[], bool]) -> None:
    """Add to the CPU platform what this module describes, for engines that :func:`uncompiled` is true of.

    Args:
        platform_class: vLLM's CPU platform.
        direct: whether the engine that is being built is one of them.
    """
    _register_norms()
    _register_activation()
    _register_rotary()
    _shorten_linears(direct)
    opaque_attention = platform_class.opaque_attention_op

    def opaque_attention_op(cls: type) -> bool:
        return opaque_attention() and not uncompiled(get_current_vllm_config_or_none())

    platform_class.opaque_attention_op = classmethod(opaque_attention_op)


def settle(vllm_config: VllmConfig) -> None:
    """Choose the operators of an engine that :func:`uncompiled` is true of.

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

    def plain(x: torch.Tensor, weight: torch.Tensor | None, variance_size: int | None) -> bool:
        return variance_size is None and weight is not None and weight.dtype == x.dtype and x.device.type == "cpu"

    @ir.ops.rms_norm.register_impl(
        PROVIDER,
        supports_args=lambda x, weight, epsilon, variance_size=None: (
            plain(x, weight, variance_size) and x.dim() in (2, 3)
        ),
    )
    def rms_norm(
        x: torch.Tensor, weight: torch.Tensor | None, epsilon: float, variance_size: int | None = None
    ) -> torch.Tensor:
        rows = x if x.dim() == 2 and x.is_contiguous() else x.reshape(-1, x.size(-1))
        out = torch.empty_like(rows, memory_format=torch.contiguous_format)
        torch.ops.tritonode_punica.rms_norm_(out, rows, weight, epsilon)
        return out if out.dim() == x.dim() else out.view(x.shape)

    @ir.ops.fused_add_rms_norm.register_impl(
        PROVIDER,
        supports_args=lambda x, x_residual, weight, epsilon, variance_size=None: (
            plain(x, weight, variance_size)
            and x.dim() == 2
            and x.is_contiguous()
            and x_residual.is_contiguous()
            and x_residual.dtype == x.dtype
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
    if "SiluAndMul" in op_registry_oot:
        return  # another plugin has registered its own

    @SiluAndMul.register_oot(name="SiluAndMul")
    class SiluAndMulCpu(SiluAndMul):  # type: ignore[misc]
        def forward_cpu(self, x: torch.Tensor) -> torch.Tensor:
            if x.dim() != 2 or not x.is_contiguous() or x.dtype not in _DTYPES:
                return self.forward_native(x)
            out = torch.empty((x.size(0), x.size(1) // 2), dtype=x.dtype)
            torch.ops.tritonode_punica.silu_and_mul_(out, x)
            return out


def _register_rotary() -> None:
    # Rotary embeddings that differ only in their tables of angles.
    for base in (RotaryEmbedding, Llama3RotaryEmbedding):
        if base.__name__ not in op_registry_oot:  # otherwise another plugin has registered its own
            _register_rotary_of(base)


def _register_rotary_of(base: Any) -> None:
    @base.register_oot(name=base.__name__)
    class RotaryEmbeddingCpu(base):  # type: ignore[misc]
        def forward_cpu(
            self, positions: torch.Tensor, query: torch.Tensor, key: torch.Tensor | None = None
        ) -> tuple[torch.Tensor, torch.Tensor | None]:
            if (
                key is None
                or query.dim() != 2
                or positions.dim() != 1
                or self.rotary_dim != self.head_size
                or not self.is_neox_style
                or query.dtype not in _DTYPES
            ):
                return super().forward_cpu(positions, query, key)
            cos_sin = self._match_cos_sin_cache_dtype(query)
            torch.ops.tritonode_punica.rope_(query, key, positions, cos_sin, self.head_size)
            return query, key

    _rotary_classes.add(RotaryEmbeddingCpu)


_rotary_classes: set[type] = set()


def rotates(rotary: Any) -> bool:
    """Whether our kernel computes a rotary embedding of queries and keys that are matrices."""
    return type(rotary) in _rotary_classes and rotary.rotary_dim == rotary.head_size and rotary.is_neox_style


_DTYPES = (torch.float32, torch.float16, torch.bfloat16)


@dataclass(frozen=True)
class _Multiply:
    """``operator(output, input, *arguments)`` fills an output of `columns` columns."""

    operator: Callable[..., None]
    arguments: tuple[Any, ...]
    columns: int


def _multiply_of(linear: Any, bias: torch.Tensor | None) -> _Multiply | None:
    """Return what a layer's ``cpu_linear`` calls with an input that is a contiguous matrix, or None."""
    if type(linear) is PackedLinear:
        weight = linear.packed()
        arguments = (weight.data, torch.empty(0) if bias is None else bias)
        return _Multiply(torch.ops.tritonode_linear.linear_.default, arguments, weight.shape[0])
    # vLLM keeps oneDNN's matrix in the closure.
    cells = [cell.cell_contents for cell in getattr(linear, "__closure__", None) or ()]
    matrix = cells[0] if len(cells) == 1 and type(cells[0]) is CPUDNNLGEMMHandler else None
    if matrix is None:
        return None
    # As vllm._custom_ops.onednn_mm does, for a matrix.
    return _Multiply(torch.ops._C.onednn_mm.default, (bias, matrix.handler_tensor), matrix.n)


@dataclass(frozen=True)
class _Plain:
    """The functions that compute a linear layer which has only a weight matrix and possibly a bias."""

    linear: Callable[..., torch.Tensor]
    multiply: _Multiply | None  # None: only `linear` knows how
    weight: torch.Tensor | None
    own_bias: torch.Tensor | None
    returned_bias: torch.Tensor | None
    return_bias: bool


def plain(base: Any) -> _Plain | None:
    """Return None for a layer that does more than multiply: quantised, of several ranks, or of a kind unknown here."""
    bases = (ColumnParallelLinear, MergedColumnParallelLinear, QKVParallelLinear, RowParallelLinear)
    # Exact types: a subclass may have a forward of its own.
    if type(base) not in bases or base.tp_size != 1:
        return None
    linear = getattr(base, "cpu_linear", None)
    known = type(base.quant_method) is UnquantizedLinearMethod or hasattr(base, "packed")
    if not known or linear is None:
        return None
    if type(base) is RowParallelLinear and not base.input_is_parallel:
        return None
    own_bias, returned_bias = (None, base.bias) if base.skip_bias_add else (base.bias, None)
    weight, multiply = getattr(base, "weight", None), _multiply_of(linear, own_bias)
    return _Plain(linear, multiply, weight, own_bias, returned_bias, base.return_bias)


def _shorten_linears(direct: Callable[[], bool]) -> None:
    """Give each plain layer of an engine that is `direct` a shorter forward, once its weights no longer move."""
    method: Any = UnquantizedLinearMethod
    process = method.process_weights_after_loading

    @functools.wraps(process)
    def process_and_shorten(self: Any, layer: torch.nn.Module) -> None:
        process(self, layer)
        _count_weights()
        found = plain(layer) if direct() else None
        if found is not None and found.multiply is not None:
            layer.forward = _base_forward(layer, found, found.multiply)

    method.process_weights_after_loading = process_and_shorten


_weights_loaded = 0


def weights_loaded() -> int:
    """Return a number that changes whenever a layer's weights are loaded."""
    return _weights_loaded


def _count_weights() -> None:
    global _weights_loaded
    _weights_loaded += 1


def _base_forward(base: Any, found: _Plain, how: _Multiply) -> Callable[..., Any]:
    linear, returned_bias, return_bias = found.linear, found.returned_bias, found.return_bias
    columns, multiply, arguments = how.columns, how.operator, how.arguments
    slow = type(base).forward

    def forward(input_: torch.Tensor) -> Any:
        if input_.dim() != 2 or not input_.is_contiguous() or base.cpu_linear is not linear:
            return slow(base, input_)
        output = input_.new_empty((input_.size(0), columns))
        multiply(output, input_, *arguments)
        return (output, returned_bias) if return_bias else output

    return forward


def shorten_packed(base: Any) -> None:
    """Give a layer with packed weights (`packed_layers`) a shorter forward, after it has its `cpu_linear`."""
    _count_weights()
    found = plain(base)
    if found is None:
        return
    linear, own_bias, returned_bias, return_bias = found.linear, found.own_bias, found.returned_bias, found.return_bias
    slow = type(base).forward

    def forward(input_: torch.Tensor) -> Any:
        if input_.dim() != 2 or base.cpu_linear is not linear:
            return slow(base, input_)
        output = linear(input_, None, own_bias)
        return (output, returned_bias) if return_bias else output

    base.forward = forward


def takes_adapters(layer: Any) -> bool:
    """Whether a LoRA layer computes its base layer's output plus the adapters' part, and nothing else."""
    return type(layer) in (
        ColumnParallelLinearWithLoRA,
        MergedColumnParallelLinearWithLoRA,
        QKVParallelLinearWithLoRA,
        MergedQKVParallelLinearWithLoRA,
        RowParallelLinearWithLoRA,
    )


def direct_embedding(layer: Any, flags: bytearray, flag: int) -> Callable[..., Any] | None:
    """Return a ``forward`` for an embedding with LoRA that looks up nothing of adapters which leave it alone.

    Args:
        layer: a LoRA layer that has its weights.
        flags: ``flags[flag]`` is zero while no row of the step has an adapter that touches this layer.
        flag: this layer's place in `flags`.
    """
    if type(layer) is not VocabParallelEmbeddingWithLoRA:
        return None
    slow, base = layer.forward, layer.base_layer

    def forward(x: torch.Tensor) -> Any:
        return slow(x) if flags[flag] else base.forward(x)

    return forward


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
    base: Any = getattr(layer, "base_layer", None)
    found = plain(base) if takes_adapters(layer) else None
    if found is None:
        return None
    linear, weight, weights, slow = found.linear, found.weight, layer.lora_a_stacked[0], layer.forward
    own_bias, returned_bias, return_bias = found.own_bias, found.returned_bias, found.return_bias

    how = found.multiply
    if how is None:

        def forward(input_: torch.Tensor) -> Any:
            if input_.dim() != 2 or base.cpu_linear is not linear:
                return slow(input_)
            output = linear(input_, weight, own_bias)
            if flags[flag]:
                add_lora(output, input_, weights, rows, 1.0)
            return (output, returned_bias) if return_bias else output

        return forward

    columns, multiply, arguments = how.columns, how.operator, how.arguments

    def forward_multiply(input_: torch.Tensor) -> Any:
        # Weights that were loaded again have another matrix; `linear` keeps this one alive.
        if input_.dim() != 2 or not input_.is_contiguous() or base.cpu_linear is not linear:
            return slow(input_)
        output = input_.new_empty((input_.size(0), columns))
        multiply(output, input_, *arguments)
        if flags[flag]:
            add_lora(output, input_, weights, rows, 1.0)
        return (output, returned_bias) if return_bias else output

    return forward_multiply
