"""The names of vLLM's that this backend uses without vLLM promising them, with the parameters that it passes.

A new version of vLLM that moves one fails here, with the name. `tritonode.vllm` is where it is used.
"""

from __future__ import annotations

import dataclasses
import importlib
import inspect
import os
import pkgutil
import re
from typing import Any

import pytest

os.environ.setdefault("HF_HUB_OFFLINE", "1")
pytest.importorskip("vllm")
import tritonode.vllm

MODULES = [module.name for module in pkgutil.iter_modules(tritonode.vllm.__path__)]

# "module:name" → the parameters that are passed, by name.
FUNCTIONS: dict[str, str] = {
    # The engine.
    "vllm.v1.engine.core:EngineCore.__init__": "vllm_config executor_class log_stats executor_fail_callback",
    "vllm.v1.engine.core:EngineCore.preprocess_add_request": "request",
    "vllm.v1.engine.core:EngineCore.add_request": "request request_wave",
    "vllm.v1.engine.core:EngineCore.abort_requests": "request_ids",
    "vllm.v1.engine.core:EngineCore.post_step": "model_executed",
    "vllm.v1.engine.core:EngineCore.pause_scheduler": "mode clear_cache",
    "vllm.v1.engine.core:EngineCore.sleep": "level mode",
    "vllm.v1.engine.core:EngineCore.shutdown": "",
    "vllm.v1.engine.core_client:EngineCoreClient.make_async_mp_client": "vllm_config executor_class log_stats",
    "vllm.v1.engine.core_client:AsyncMPClient.get_output_async": "",
    "vllm.v1.engine.core_client:AsyncMPClient.add_request_async": "request",
    "vllm.v1.engine.core_client:AsyncMPClient.abort_requests_async": "request_ids",
    "vllm.v1.engine.core_client:AsyncMPClient.pause_scheduler_async": "mode clear_cache",
    "vllm.v1.engine.core_client:AsyncMPClient.sleep_async": "level mode",
    "vllm.v1.engine.async_llm:AsyncLLM.from_vllm_config": "vllm_config usage_context stat_loggers disable_log_stats",
    "vllm.v1.engine.async_llm:AsyncLLM.add_request": "request_id prompt params lora_request priority",
    "vllm.v1.engine.async_llm:AsyncLLM.abort": "request_id internal",
    "vllm.v1.engine.async_llm:AsyncLLM.encode": "prompt pooling_params request_id lora_request",
    "vllm.v1.engine.output_processor:RequestOutputCollector.put": "output",
    "vllm.v1.engine.output_processor:RequestOutputCollector.get_nowait": "",
    "vllm.v1.engine.output_processor:RequestOutputCollector.close": "",
    "vllm.v1.core.sched.scheduler:Scheduler.finish_requests": "request_ids finished_status",
    "vllm.v1.core.sched.scheduler:Scheduler.has_requests": "",
    "vllm.v1.core.sched.scheduler:Scheduler.get_request_counts": "",
    "vllm.v1.executor.multiproc_executor:get_file_store_init_method": "",
    "vllm.v1.metrics.loggers:StatLoggerBase.record": "scheduler_stats iteration_stats mm_cache_stats engine_idx",
    # What is imported late, and the memory of the KV cache.
    "vllm.env_override:_patch_inductor_fallback_allow_list": "",
    "vllm.v1.worker.utils:allocate_kv_cache": "kv_cache_config device layout kernel_block_sizes",
    "torch:_check_with": "error_type cond message",
    "torch._library.triton:get_inner_triton_kernels": "fn",
    "transformers.utils.import_utils:define_import_structure": "module_path prefix",
    # Tokenising.
    "vllm.renderers.base:BaseRenderer._tokenize_prompt": "prompt params",
    # Adapters.
    "vllm.lora.lora_model:LoRAModel.from_local_checkpoint": (
        "lora_dir expected_lora_modules peft_helper lora_model_id device dtype weights_mapper skip_prefixes moe_ep_spec"
    ),
    "vllm.lora.lora_model:LoRAModel._should_skip_module": "module_name skip_prefixes",
    "vllm.lora.utils:parse_fine_tuned_lora_name": "name weights_mapper",
    "vllm.lora.worker_manager:LRUCacheWorkerLoRAManager._load_adapter": "lora_request",
    "vllm.lora.worker_manager:LRUCacheWorkerLoRAManager.add_adapter": "lora_request",
    "vllm.lora.model_manager:LRUCacheLoRAModelManager.create_dummy_lora": "lora_id rank embedding_modules",
    "vllm.utils.cache:LRUCache.pin": "key",
    "vllm.utils.cache:LRUCache._unpin": "key",
    "vllm.lora.layers.base:BaseLayerWithLoRA.set_mapping": "punica_wrapper",
    "vllm.lora.layers.base:BaseLayerWithLoRA.set_lora": "index lora_a lora_b",
    "vllm.lora.layers.base:BaseLayerWithLoRA.reset_lora": "index",
    "vllm.lora.layers:FusedMoEWithLoRA.can_replace_layer": "source_layer",
    "vllm.lora.layers:FusedMoE3DWithLoRA.can_replace_layer": "source_layer",
    "vllm.lora.layers.base_linear:_get_lora_device": "base_layer",
    # What the CPU's kernels stand in for.
    "vllm.lora.punica_wrapper.punica_base:PunicaWrapperBase.__init__": "max_num_batched_tokens max_batches device",
    "vllm.lora.punica_wrapper.punica_base:PunicaWrapperBase.update_metadata": (
        "mapping lora_index_to_id max_loras vocab_size"
    ),
    "vllm.lora.punica_wrapper.punica_base:PunicaWrapperBase.add_shrink": "y x lora_a_stacked scale",
    "vllm.lora.punica_wrapper.punica_base:PunicaWrapperBase.add_expand": (
        "y x lora_b_stacked output_slices offset_start add_inputs"
    ),
    "vllm.lora.punica_wrapper.punica_base:PunicaWrapperBase.add_lora_embedding": "y x lora_b_stacked add_inputs",
    "vllm.lora.punica_wrapper.punica_base:PunicaWrapperBase.add_lora_linear": (
        "y x lora_a_stacked lora_b_stacked scale output_slices buffer"
    ),
    "vllm.lora.punica_wrapper.punica_base:PunicaWrapperBase.add_lora_logits": (
        "y x lora_a_stacked lora_b_stacked scale buffer"
    ),
    "vllm.lora.punica_wrapper.punica_base:PunicaWrapperBase.apply_lora_full_linear": (
        "y x weight_stacked bias_stacked module_enabled"
    ),
    "vllm.lora.punica_wrapper.punica_base:PunicaWrapperBase._select_full_linear_output": "",
    "vllm.platforms.cpu:CpuPlatform.get_punica_wrapper": "",
    "vllm.platforms.cpu:CpuPlatform.check_and_update_config": "vllm_config",
    "vllm.platforms.cpu:CpuPlatform.opaque_attention_op": "",
    "vllm.model_executor.layers.linear:UnquantizedLinearMethod.process_weights_after_loading": "layer",
    "vllm.model_executor.layers.activation:SiluAndMul.forward_native": "x",
    "vllm.model_executor.layers.rotary_embedding:RotaryEmbedding.forward_cpu": "positions query key",
    "vllm.model_executor.layers.rotary_embedding:RotaryEmbedding._match_cos_sin_cache_dtype": "query",
    "vllm.model_executor.layers.fused_moe.config:FusedMoEConfig.__post_init__": "",
    # The OpenAI application.
    "vllm.entrypoints.launchers.app:build_app": "args supported_tasks model_config",
    "vllm.entrypoints.launchers.api_server:app_state.init_app_state": "engine_client state args supported_tasks",
    "vllm.entrypoints.openai.models.serving:OpenAIServingModels.load_lora_adapter": "request base_model_name",
    "vllm.entrypoints.openai.models.serving:OpenAIServingModels.unload_lora_adapter": "request",
    "vllm.entrypoints.openai.models.serving:OpenAIServingModels._check_load_lora_adapter_request": "request",
    "vllm.entrypoints.openai.models.serving:OpenAIServingModels._check_unload_lora_adapter_request": "request",
}

# "module:class" → attributes of its instances.
ATTRIBUTES: dict[str, str] = {
    "vllm.v1.engine.core:EngineCore": "scheduler batch_queue step_fn model_executor",
    "vllm.v1.engine.async_llm:AsyncLLM": (
        "output_processor renderer engine_core vllm_config model_config errored dead_error"
    ),
    "vllm.v1.engine.output_processor:OutputProcessor": "request_states",
    "vllm.v1.engine.output_processor:RequestState": "queue",
    "vllm.v1.engine.output_processor:RequestOutputCollector": "request_id",
    "vllm.v1.core.sched.scheduler:Scheduler": "requests",
    "vllm.renderers.base:BaseRenderer": "_tokenize_prompt_async",
    "vllm.v1.engine:EngineCoreOutput": "request_id new_token_ids pooling_output finish_reason",
    "vllm.v1.engine:EngineCoreOutputs": "outputs finished_requests",
    "vllm.v1.metrics.stats:IterationStats": (
        "finished_requests num_prompt_tokens num_generation_tokens time_to_first_tokens_iter "
        "inter_token_latencies_iter n_params_iter"
    ),
    "vllm.lora.worker_manager:LRUCacheWorkerLoRAManager": "_adapter_manager _lora_model_cls embedding_modules",
    "vllm.lora.model_manager:LRUCacheLoRAModelManager": (
        "_registered_adapters _active_adapters model modules packed_modules supported_modules_to_save is_pooling_model"
    ),
    "vllm.v1.worker.worker_base:WorkerWrapperBase": "worker",
    "vllm.v1.executor.uniproc_executor:UniProcExecutor": "driver_worker",
    "vllm.v1.worker.lora_model_runner_mixin:LoRAModelRunnerMixin": "lora_manager",
    "vllm.lora.punica_wrapper.punica_base:PunicaWrapperBase": (
        "_token_lora_indices _sampler_indices _sampler_indices_padded _embeddings_indices indices_len "
        "is_prefill no_lora"
    ),
    "vllm._custom_ops:CPUDNNLGEMMHandler": "n handler_tensor",
    "vllm.model_executor.layers.fused_moe.config:FusedMoEConfig": "is_lora_enabled",
    "vllm.platforms.cpu:CpuPlatform": "simple_compile_backend",
    "vllm.entrypoints.openai.models.serving:OpenAIServingModels": "base_model_paths lora_requests lora_resolver_lock",
}


def find(path: str) -> Any:
    module, _, name = path.partition(":")
    found: Any = importlib.import_module(module)
    for part in name.split("."):
        found = getattr(found, part)
    return found


def has_attribute(cls: type, name: str) -> bool:
    """Whether instances have an attribute: of the class, a field, or assigned in a method."""
    if (
        hasattr(cls, name)
        or name in getattr(cls, "__struct_fields__", ())
        or name in getattr(cls, "__annotations__", ())
    ):
        return True
    if dataclasses.is_dataclass(cls) and name in {field.name for field in dataclasses.fields(cls)}:
        return True
    assigned = re.compile(rf"\bself\.{name}\b[^=\n]*=[^=]")
    return any(assigned.search(inspect.getsource(base)) for base in cls.__mro__ if base.__module__.startswith("vllm"))


@pytest.mark.parametrize("module", MODULES)
def test_the_names_that_a_module_gives_on_are_there(module: str) -> None:
    importlib.import_module(f"tritonode.vllm.{module}")


@pytest.mark.parametrize("path", FUNCTIONS)
def test_a_function_takes_what_it_is_called_with(path: str) -> None:
    parameters = inspect.signature(find(path)).parameters
    takes_any = any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values())
    missing = [name for name in FUNCTIONS[path].split() if name not in parameters and not takes_any]
    assert not missing, f"{path} has no parameter {missing}; it takes {list(parameters)}"


@pytest.mark.parametrize("path", ATTRIBUTES)
def test_an_object_has_the_attributes_that_are_used(path: str) -> None:
    missing = [name for name in ATTRIBUTES[path].split() if not has_attribute(find(path), name)]
    assert not missing, f"{path} has no attribute {missing}"


def test_an_attribute_that_is_not_there_is_missed() -> None:
    assert not any(has_attribute(find(path), "no_such_attribute") for path in ATTRIBUTES)
