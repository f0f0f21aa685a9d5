"""Make vLLM's CPU platform use the operators of this package, and configure engines that run uncompiled."""

from __future__ import annotations

import functools
import logging
import os
from typing import Any

from tritonode.vllm.layers import (
    BaseLayerWithLoRA,
    CompilationMode,
    VllmConfig,
)
from tritonode.vllm.platform import current_platform

from . import attention, eager, linear_layers, lora_layers, punica_library

logger = logging.getLogger("vllm.tritonode.punica")

COMPILE_VARIABLE = "TRITONODE_PUNICA_COMPILE"
_settings: dict[str, bool] = {"installed": False, "compile": False, "direct": False}


@functools.cache
def _plan_decoders() -> None:
    """Shorten the steps of models that are loaded from now on. Called once, late, because it imports much of vLLM."""
    from tritonode.vllm import decoder, slots

    from . import decoder_plan

    decoder.when_loaded(decoder_plan.install)
    slots.map_decoding_here()


@functools.cache
def kernels_available() -> bool:
    """Return whether the native kernels are used. The first call logs which kernels, or why they are not used."""
    try:
        punica_library.register_torch_operator()
    except punica_library.PunicaLibraryError as error:
        logger.warning("LoRA and small operators run on plain torch, which is correct but slower. %s", error)
        return False
    logger.info("LoRA and small operators run on libtritonode_punica (%s)", punica_library.level())
    return True


def direct_layers() -> bool:
    """Return whether the engine that is being built uses the faster layers of :mod:`eager`."""
    return _settings["direct"]


def install(compile_model: bool | None = None) -> None:
    """Make vLLM's CPU platform use :class:`PunicaWrapper`. Call it before the engine is built.

    A second call changes ``compile_model`` and nothing else.

    vLLM turns ``torch.compile`` off for CPU engines with LoRA, because Dynamo can't trace its LoRA operators. The one
    here is opaque to Dynamo, so the model can be compiled as it is without LoRA. That takes nearly a minute at each
    start, and the layers of :mod:`eager` are no slower, so it is off by default.

    Args:
        compile_model: compile LoRA engines as vLLM compiles others on this CPU. None: if ``TRITONODE_PUNICA_COMPILE``
            is "1". An engine that the caller's own settings (``enforce_eager``, ``-O0``) leave uncompiled stays so, and
            so does every LoRA engine without the kernels.

    On other platforms (CUDA) this changes nothing: vLLM's own kernels are used there.
    """
    if not current_platform.is_cpu():
        return
    platform_class: Any = type(current_platform)
    if compile_model is None:
        compile_model = os.environ.get(COMPILE_VARIABLE, "0") == "1"
    _settings["compile"] = compile_model
    if _settings["installed"]:
        return
    _settings["installed"] = True

    platform_class.get_punica_wrapper = classmethod(lambda cls: "tritonode.cpu.punica_wrapper.PunicaWrapper")

    set_mapping: Any = BaseLayerWithLoRA.set_mapping

    @functools.wraps(set_mapping)
    def set_mapping_and_register(self: Any, punica_wrapper: Any) -> None:
        set_mapping(self, punica_wrapper)
        register = getattr(punica_wrapper, "register_layer", None)  # PunicaWrapper's own
        if register is not None:
            register(self)

    layer_class: Any = BaseLayerWithLoRA
    layer_class.set_mapping = set_mapping_and_register
    lora_layers.leave_experts_alone()
    lora_layers.keep_adapters_on_the_cpu()

    check_and_update_config = platform_class.check_and_update_config

    def check_and_keep_compilation(cls: type, vllm_config: VllmConfig) -> None:
        wanted = vllm_config.compilation_config.mode
        check_and_update_config(vllm_config)
        if not kernels_available():
            return
        stopped = wanted == CompilationMode.VLLM_COMPILE and vllm_config.compilation_config.mode == CompilationMode.NONE
        if stopped and vllm_config.lora_config is not None and _settings["compile"]:
            # The mode that check_and_update_config chooses for an engine without LoRA.
            vllm_config.compilation_config.mode = CompilationMode.DYNAMO_TRACE_ONCE
        _settings["direct"] = eager.uncompiled(vllm_config)
        if _settings["direct"]:
            eager.settle(vllm_config)
            _plan_decoders()

    platform_class.check_and_update_config = classmethod(check_and_keep_compilation)
    if kernels_available():
        linear_layers.install()  # before eager, which gives these layers a shorter forward
        eager.extend_platform(platform_class, direct_layers)
        attention.extend_platform(platform_class)
