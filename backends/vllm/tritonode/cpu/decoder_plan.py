"""Runs all layers of a vLLM decoder in one native call (:mod:`decoder`), instead of a dozen operators for each layer.

It gives the bits that the layers give one by one on this package's kernels. vLLM's scheduler, KV cache, embedding,
logits and samplers stay as they are. A model, a layer or a setting that is not known here runs as before, and the log
says why.
"""

from __future__ import annotations

import logging
import operator
import os
from typing import Any

import torch

from tritonode.vllm import decoder as their
from tritonode.vllm.layers import CompilationMode, RMSNorm, SiluAndMul, op_registry_oot

from . import eager, punica_library
from .attention_backend import AttentionImpl
from .decoder import Decoder, Layer, Linear, Norm, Sizes
from .linear_layers import PackedLinear

logger = logging.getLogger("vllm.tritonode.decoder")

VARIABLE = "TRITONODE_CPU_DECODER"
_CHOICES = ("tritonode", "vllm")


class Unsuited(Exception):
    """The model can't be computed in one call; the message says why."""


def wanted() -> bool:
    """Whether a decoder's layers run in one call.

    Raises:
        ValueError: ``TRITONODE_CPU_DECODER`` names something else.
    """
    name = os.environ.get(VARIABLE) or _CHOICES[0]
    if name not in _CHOICES:
        raise ValueError(f"{VARIABLE}={name!r}: wanted one of {', '.join(_CHOICES)}")
    return name == _CHOICES[0]


def install(runner: Any) -> None:
    """Make the decoder of a runner's model run in one call, if its kind is supported.

    Args:
        runner: vLLM's model runner, which has loaded its model.
    """
    if not wanted():
        return
    config = runner.vllm_config
    reason = _unsuited_setting(config)
    found = [] if reason else list(their.decoders(runner.model))
    if not found:
        reason = reason or f"{type(runner.model).__name__} is not among the architectures that it knows"
        logger.info("The decoder's layers run one by one: %s", reason)
    for model in found:
        model.forward = PlannedForward(model, model.forward)


def _unsuited_setting(config: Any) -> str | None:
    parallel = config.parallel_config
    if parallel.tensor_parallel_size * parallel.pipeline_parallel_size > 1:
        return "the model is divided among ranks"
    if config.compilation_config.mode not in (None, CompilationMode.NONE):
        return "vLLM compiles the model"
    if config.speculative_config is not None:
        return "speculative decoding reads the states between layers"
    if config.kv_transfer_config is not None:
        return "the KV cache is transferred layer by layer"
    return None


class PlannedForward:
    """The ``forward`` of a decoder.

    The native decoder is made at the first step, when there is a KV cache, and made anew when the cache or the weights
    are others.
    """

    def __init__(self, model: Any, slow: Any) -> None:
        self._model, self._slow = model, slow
        self._decoder: Decoder | None = None
        self.enabled = True  # until the model turns out not to be supported
        self._layers = list(model.layers)
        self._attention = [layer.self_attn.attn for layer in self._layers]
        self._names = [attention.layer_name for attention in self._attention]
        self._caches: list[Any] = []
        self._weights = -1

    def __call__(
        self,
        input_ids: torch.Tensor | None,
        positions: torch.Tensor,
        intermediate_tensors: Any = None,
        inputs_embeds: torch.Tensor | None = None,
        **more: Any,
    ) -> Any:
        """vLLM's forward of a decoder: the output of its last norm, ``[tokens, hidden]``."""
        step = their.attention_metadata(self._names) if self.enabled else None
        if step is None or step.dynamic_causal is not None or more or intermediate_tensors is not None:
            return self._slow(input_ids, positions, intermediate_tensors, inputs_embeds, **more)
        decoder = self._ready()
        if decoder is None or positions.dim() != 1:
            return self._slow(input_ids, positions, intermediate_tensors, inputs_embeds)
        x = self._model.embed_input_ids(input_ids) if inputs_embeds is None else inputs_embeds
        return decoder.run(
            x, positions, step.slot_mapping, step.query_start_loc, step.seq_lens, step.block_table, step.causal
        )

    def _ready(self) -> Decoder | None:
        caches = list(map(their.kv_cache, self._attention))
        same = len(caches) == len(self._caches) and all(map(operator.is_, caches, self._caches))
        if same and self._weights == eager.weights_loaded():
            return self._decoder
        self._decoder, self._caches, self._weights = None, caches, eager.weights_loaded()
        try:
            self._decoder = _decoder(self._model, caches)
            logger.info("The decoder's %d layers run in one call", len(self._layers))
        except (Unsuited, ValueError, punica_library.PunicaLibraryError) as why:
            self.enabled = False
            logger.info("The decoder's layers run one by one: %s", why)
        return self._decoder


def _decoder(model: Any, caches: list[torch.Tensor]) -> Decoder:
    if getattr(model, "aux_hidden_state_layers", ()):
        raise Unsuited("the states between layers are requested")
    wanted_class = their.DECODERS[their.class_name(model)]
    first = model.layers[0].self_attn
    dtype = caches[0].dtype
    layers = []
    for layer, cache in zip(model.layers, caches, strict=True):
        if their.class_name(layer) != wanted_class or getattr(layer, "ada_rms_norm_t_cond", None) is not None:
            raise Unsuited(f"a layer is a {their.class_name(layer)}")
        layers.append(_layer(layer, cache))
    sizes = Sizes(
        hidden=model.norm.weight.numel(),
        intermediate=model.layers[0].mlp.down_proj.input_size,
        heads=first.num_heads,
        kv_heads=first.num_kv_heads,
        head_size=first.head_dim,
        dtype=dtype,
    )
    return Decoder(sizes, layers, _norm(model.norm))


def _layer(layer: Any, cache: torch.Tensor) -> Layer:
    attention, mlp = layer.self_attn, layer.mlp
    if their.class_name(attention) not in their.ATTENTION or getattr(attention, "do_llama_4_scaling", False):
        raise Unsuited(f"attention is a {their.class_name(attention)}")
    if their.class_name(mlp) not in their.MLPS:
        raise Unsuited(f"an MLP is a {their.class_name(mlp)}")
    if not isinstance(mlp.act_fn, SiluAndMul) or type(mlp.act_fn) is not op_registry_oot.get("SiluAndMul"):
        raise Unsuited(f"an activation is a {their.class_name(mlp.act_fn)}")
    if not eager.rotates(attention.rotary_emb):
        raise Unsuited(f"the rotary embedding is a {their.class_name(attention.rotary_emb)}")
    inner = attention.attn
    impl = inner.impl
    if type(impl) is not AttentionImpl or not impl.plain or inner.query_quant is not None:
        raise Unsuited("attention runs on vLLM's kernels")
    normed = hasattr(attention, "q_norm")
    return Layer(
        input_norm=_norm(layer.input_layernorm),
        mlp_norm=_norm(layer.post_attention_layernorm),
        query_norm=_norm(attention.q_norm) if normed else None,
        key_norm=_norm(attention.k_norm) if normed else None,
        qkv=_linear(attention.qkv_proj),
        attention_output=_linear(attention.o_proj),
        gate_up=_linear(mlp.gate_up_proj),
        down=_linear(mlp.down_proj),
        cos_sin=attention.rotary_emb._match_cos_sin_cache_dtype(cache),
        cache=cache,
        window=impl.window,
        scale=impl.scale,
        softcap=impl.logits_soft_cap,
    )


def _norm(norm: Any) -> Norm:
    if type(norm) is not RMSNorm or not norm.has_weight or norm.variance_size_override is not None:
        raise Unsuited(f"a norm is a {their.class_name(norm)}")
    return Norm(norm.weight.detach(), norm.variance_epsilon)


def _linear(layer: Any) -> Linear:
    base = getattr(layer, "base_layer", layer)
    lora = None
    if base is not layer:
        if not eager.takes_adapters(layer):
            raise Unsuited(f"a linear layer is a {their.class_name(layer)}")
        lora = layer.punica_wrapper.native_layer(layer)
        if lora is None:
            raise Unsuited("adapters run on plain torch")
    plain = eager.plain(base)
    if plain is None or plain.returned_bias is not None:
        raise Unsuited(f"a linear layer is a {their.class_name(base)} that does more than multiply")
    if type(plain.linear) is PackedLinear:
        parts: list[Any] = [(plain.linear.packed().data, None)]
    elif hasattr(base, "packed"):
        parts = [(part.weight.data, part.order) for part in base.packed.segments]
    else:
        raise Unsuited("linear layers run on vLLM's kernels")
    return Linear(parts, plain.own_bias, lora)
