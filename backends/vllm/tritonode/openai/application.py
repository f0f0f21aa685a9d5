"""vLLM's own OpenAI application over this backend's engine: built as `vllm serve` builds it, but never listening.

The application's FastAPI routes, their state and their error handling are vLLM's; only its list of models is replaced
(`asgi_models`).
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from types import SimpleNamespace
from typing import Any

from tritonode.lora.registry import AdapterRegistry

Scope = dict[str, Any]
Message = dict[str, Any]
# What ASGI calls an application (https://asgi.readthedocs.io/en/latest/specs/main.html).
Application = Callable[[Scope, Callable[[], Awaitable[Message]], Callable[[Message], Awaitable[None]]], Awaitable[None]]


def import_application() -> None:
    """Import what `build_application` needs: FastAPI and the routes, about a second."""
    from . import models as asgi_models  # noqa: F401


async def build_application(llm: Any, args: Any, registry: AdapterRegistry | None, model_name: str) -> Application:
    """Build the application on the engine's loop; `args` are those of `asgi_arguments.serve_arguments`."""
    # Not at the top: see `import_application`.
    from tritonode.vllm import openai as asgi_vllm

    from . import models as asgi_models

    # As the engine settled it: the reasoning parser has been put in, an object has become vLLM's own type.
    args.structured_outputs_config = llm.vllm_config.structured_outputs_config
    models = asgi_models.AdapterModels(registry)
    client = asgi_models.CountingEngineClient(llm, models)
    tasks = await llm.get_supported_tasks()
    app: Any = asgi_vllm.build_app(args, tasks, llm.model_config)
    original = asgi_vllm.app_state.OpenAIServingModels
    asgi_vllm.app_state.OpenAIServingModels = asgi_models.RegistryServingModels  # type: ignore[misc]
    try:
        await asgi_vllm.app_state.init_app_state(client, app.state, args, tasks)  # type: ignore[arg-type]
    finally:
        asgi_vllm.app_state.OpenAIServingModels = original  # type: ignore[misc]
    serving = app.state.openai_serving_models
    serving.follow(models)
    if args.served_model_name is None:
        # The name in Triton beside vLLM's own default, the path that the model was loaded from.
        serving.base_model_paths.append(asgi_vllm.BaseModelPath(name=model_name, model_path=args.model))
    # vLLM's error handler tells its server to end when the engine is dead; here the host decides.
    app.state.server = SimpleNamespace(should_exit=False)
    return app  # type: ignore[no-any-return]
