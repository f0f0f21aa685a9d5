"""The names of vLLM's that this backend uses without vLLM promising them, with the parameters that it passes.

A new version of vLLM that moves one fails here, with the name. `tritonode.vllm` is where it is used, and
`tritonode.vllm.versions` says what differs between versions.

Everything is read from source, so the vLLM need not be importable: TRITONODE_VLLM_SOURCE=FOLDER names an unpacked wheel
of any version, where the installed one is not meant. Its torch and transformers are the installed ones.
"""

from __future__ import annotations

import ast
import importlib
import importlib.util
import os
import pkgutil
import re
from pathlib import Path

import pytest
import tritonode.vllm
from tritonode.vllm import versions
from vllm_source import Sources

FOLDER = os.environ.get("TRITONODE_VLLM_SOURCE")
SOURCES = Sources(None if FOLDER is None else Path(FOLDER))
if SOURCES.path("vllm") is None:
    pytest.skip("vLLM is not installed", allow_module_level=True)

MODULES = [module.name for module in pkgutil.iter_modules(tritonode.vllm.__path__)]


def version_of_source() -> versions.Version:
    if FOLDER is None:
        return versions.parse(versions.installed())
    (information,) = Path(FOLDER).glob("vllm*.dist-info")
    match = re.match(r"vllm(?:_cpu)?-(.*)\.dist-info", information.name)
    assert match is not None, f"{information.name} names no version"
    return versions.parse(match[1])


VERSION = version_of_source()

# A path of FUNCTIONS or ATTRIBUTES, or one of its words → the versions that it is used in.
ONLY: dict[str, tuple[versions.Version, versions.Version]] = {
    "vllm.exceptions:GracefulHTTPError": ((0, 29), versions.LAST),
    "vllm.exceptions:VLLMClientError": ((0, 27), versions.LAST),
    "vllm.v1.executor.multiproc_executor:get_file_store_init_method": ((0, 28), versions.LAST),
    "vllm.v1.sample.ops.topk_topp_sampler:compiled_random_sample": (versions.FIRST, (0, 28)),
    "vllm.v1.worker.utils:allocate_kv_cache": ((0, 29), versions.LAST),
    "vllm.v1.worker.gpu_model_runner:GPUModelRunner._allocate_kv_cache_tensors": (versions.FIRST, (0, 28)),
    "vllm.lora.punica_wrapper.punica_base:PunicaWrapperBase.apply_lora_full_linear": ((0, 31), versions.LAST),
    "vllm.lora.punica_wrapper.punica_base:PunicaWrapperBase._select_full_linear_output": ((0, 31), versions.LAST),
    "vllm.model_executor.models.utils:WeightsMapper.get_rename_mapper": ((0, 29), versions.LAST),
    "vllm.model_executor.models.utils:WeightsMapper.get_unstacked_mapper": (versions.FIRST, (0, 28)),
    "supported_modules_to_save": ((0, 31), versions.LAST),
    "vllm.outputs:PoolingRequestOutput": ((0, 32), versions.LAST),
}

# "module:name" → the parameters that are passed, by name. For a key of versions.MOVED: the module of this version.
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
    "vllm.v1.core.sched.scheduler:Scheduler.update_from_output": "",
    "vllm.v1.core.sched.scheduler:Scheduler.get_request_counts": "",
    "vllm.v1.executor.multiproc_executor:get_file_store_init_method": "",
    "vllm.v1.executor.multiproc_executor:get_mp_context": "",
    "vllm.v1.metrics.loggers:StatLoggerBase.record": "scheduler_stats iteration_stats mm_cache_stats engine_idx",
    # What is imported late, and the memory of the KV cache.
    "vllm.model_executor.models.registry:_run_in_subprocess": "fn",
    "vllm.env_override:_patch_inductor_fallback_allow_list": "",
    "vllm.v1.sample.ops.topk_topp_sampler:compiled_random_sample": "logits",
    "vllm.v1.worker.utils:allocate_kv_cache": "kv_cache_config device layout kernel_block_sizes",
    "vllm.v1.worker.gpu_model_runner:GPUModelRunner._allocate_kv_cache_tensors": "kv_cache_config",
    "vllm.v1.attention.backends.cpu_attn:CPUAttentionMetadataBuilder.build": "common_prefix_len common_attn_metadata",
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
    "vllm.model_executor.models.utils:WeightsMapper.get_rename_mapper": "",
    "vllm.model_executor.models.utils:WeightsMapper.get_unstacked_mapper": "",
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
    "vllm.platforms.interface:Platform.get_device_total_memory": "",
    "vllm.platforms.cpu:CpuPlatform.check_and_update_config": "vllm_config",
    "vllm.platforms.cpu:CpuPlatform.opaque_attention_op": "",
    "vllm.model_executor.layers.linear:UnquantizedLinearMethod.process_weights_after_loading": "layer",
    "vllm.model_executor.layers.activation:SiluAndMul.forward_native": "x",
    "vllm.model_executor.layers.rotary_embedding:RotaryEmbedding.forward_cpu": "positions query key",
    "vllm.model_executor.layers.rotary_embedding:RotaryEmbedding._match_cos_sin_cache_dtype": "query",
    "vllm.model_executor.layers.fused_moe.config:FusedMoEConfig.__post_init__": "",
    "vllm.v1.worker.cpu_model_runner:CPUModelRunner.load_model": "",
    "vllm.model_executor.models.llama:LlamaModel.forward": "input_ids positions intermediate_tensors inputs_embeds",
    "vllm.model_executor.models.llama:LlamaModel.embed_input_ids": "input_ids",
    "vllm.model_executor.models.qwen2:Qwen2Model.forward": "input_ids positions intermediate_tensors inputs_embeds",
    "vllm.model_executor.models.qwen2:Qwen2Model.embed_input_ids": "input_ids",
    # The OpenAI application.
    "application:build_app": "args supported_tasks model_config",
    "application_state:init_app_state": "engine_client state args supported_tasks",
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
    "vllm.outputs:PoolingRequestOutput": "error",
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
    "vllm.model_executor.models.llama:LlamaModel": "layers norm",
    "vllm.model_executor.models.llama:LlamaDecoderLayer": ("self_attn mlp input_layernorm post_attention_layernorm"),
    "vllm.model_executor.models.llama:LlamaAttention": (
        "qkv_proj o_proj rotary_emb attn num_heads num_kv_heads head_dim"
    ),
    "vllm.model_executor.models.llama:LlamaMLP": "gate_up_proj down_proj act_fn",
    "vllm.model_executor.models.qwen2:Qwen2Attention": (
        "qkv_proj o_proj rotary_emb attn num_heads num_kv_heads head_dim"
    ),
    "vllm.model_executor.models.qwen3:Qwen3Attention": "q_norm k_norm",
    "vllm.model_executor.layers.layernorm:RMSNorm": "has_weight variance_size_override variance_epsilon",
    "vllm.v1.attention.backends.cpu_attn:CPUAttentionMetadata": (
        "slot_mapping query_start_loc seq_lens block_table causal dynamic_causal"
    ),
    "vllm.model_executor.layers.fused_moe.config:FusedMoEConfig": "is_lora_enabled",
    "vllm.platforms.cpu:CpuPlatform": "simple_compile_backend",
    "vllm.entrypoints.openai.models.serving:OpenAIServingModels": "base_model_paths lora_requests lora_resolver_lock",
}


def is_used(name: str) -> bool:
    first, last = ONLY.get(name, (versions.FIRST, versions.LAST))
    # A newer version than is known is taken for like the newest that is.
    return first <= min(VERSION, versions.LAST) <= last


def place(path: str) -> str:
    module, _, name = path.partition(":")
    return f"{versions.MOVED[module].place(VERSION)}:{name}" if module in versions.MOVED else path


def imported_names() -> list[str]:
    """`module:name` of all that `tritonode.vllm` imports from vLLM, whatever its version."""
    found = []
    for module in MODULES:
        path = importlib.util.find_spec(f"tritonode.vllm.{module}").origin  # type: ignore[union-attr]
        tree = ast.parse(Path(path).read_text(encoding="utf-8"))  # type: ignore[arg-type]
        typing_only = {
            id(each)
            for node in ast.walk(tree)
            if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
            for each in ast.walk(node)
        }
        found += [
            f"{node.module}:{alias.name}"
            for node in ast.walk(tree)
            if isinstance(node, ast.ImportFrom) and id(node) not in typing_only
            if (node.module or "").partition(".")[0] == "vllm"
            for alias in node.names
        ]
    return sorted(set(found))


MOVED_NAMES = [f"{key}:{name}" for key, moved in versions.MOVED.items() for name in moved.names.split()]
EXCEPTIONS = ["vllm.exceptions:GracefulHTTPError", "vllm.exceptions:VLLMClientError"]
NAMES = [*imported_names(), *MOVED_NAMES, *filter(is_used, EXCEPTIONS)]


@pytest.mark.parametrize("path", NAMES)
def test_a_name_is_there(path: str) -> None:
    assert SOURCES.find(place(path)) is not None, f"vLLM {VERSION} has no {place(path)}"


@pytest.mark.parametrize("path", list(filter(is_used, FUNCTIONS)))
def test_a_function_takes_what_it_is_called_with(path: str) -> None:
    parameters = SOURCES.parameters(place(path))
    assert parameters is not None, f"vLLM {VERSION} has no function {place(path)}"
    missing = [name for name in FUNCTIONS[path].split() if name not in parameters and "**" not in parameters]
    assert not missing, f"{place(path)} has no parameter {missing}; it takes {parameters}"


@pytest.mark.parametrize("path", list(filter(is_used, ATTRIBUTES)))
def test_an_object_has_the_attributes_that_are_used(path: str) -> None:
    used = filter(is_used, ATTRIBUTES[path].split())
    missing = [name for name in used if not SOURCES.has_attribute(path, name)]
    assert not missing, f"{path} has no attribute {missing}"


@pytest.mark.parametrize("path", list(filter(is_used, ATTRIBUTES)))
def test_an_attribute_that_is_not_there_is_missed(path: str) -> None:
    assert not SOURCES.has_attribute(path, "no_such_attribute")
    assert SOURCES.find(f"{path}.no_such_attribute") is None


@pytest.mark.skipif(FOLDER is not None, reason="the source that is checked is not the installed vLLM's")
@pytest.mark.parametrize("module", MODULES)
def test_the_modules_import(module: str) -> None:
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    importlib.import_module(f"tritonode.vllm.{module}")


def test_the_versions_are_in_order() -> None:
    for key, moved in versions.MOVED.items():
        assert list(moved.places) == sorted(moved.places), key
        assert next(iter(moved.places)) == versions.FIRST, key
    for first, last in ONLY.values():
        assert versions.FIRST <= first <= last <= versions.LAST
