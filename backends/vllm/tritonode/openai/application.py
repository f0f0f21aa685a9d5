"""vLLM's own OpenAI application over this backend's engine: built as `vllm serve` builds it, but never listening.

The FastAPI routes, their state and their error handling are vLLM's own; only the list of models is replaced
(`models`).
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from types import SimpleNamespace
from typing import Any

from tritonode.lora.registry import AdapterRegistry

Scope = dict[str, Any]
Message = dict[str, Any]
# What ASGI calls an application (https://asgi.readthedocs.io/en/latest/specs/main.html).
Application = Callable[[Scope, Callable[[], Awaitable[Message]], Callable[[Message], Awaitable[None]]], Awaitable[None]]


def import_application() -> None:
    """Import what `build_application` needs first: FastAPI and the routes, about a second."""
    from . import models  # noqa: F401


async def build_application(llm: Any, args: Any, registry: AdapterRegistry | None, model_name: str) -> Application:
    """Build the application on the engine's loop. `args` come from `arguments.serve_arguments`."""
    # Not at the top: see `import_application`.
    from tritonode.vllm import openai

    from . import models

    # The engine's own configuration: it has the reasoning parser, and vLLM's type instead of a plain object.
    args.structured_outputs_config = llm.vllm_config.structured_outputs_config
    adapters = models.AdapterModels(registry)
    client = models.CountingEngineClient(llm, adapters)
    tasks = await llm.get_supported_tasks()
    app: Any = openai.build_app(args, tasks, llm.model_config)
    # After the routes, as in `vllm serve`.
    await asyncio.to_thread(openai.import_what_answers)
    with openai.serving_models(models.RegistryServingModels):
        await openai.app_state.init_app_state(client, app.state, args, tasks)  # type: ignore[arg-type]
    serving = app.state.openai_serving_models
    serving.follow(adapters)
    if args.served_model_name is None:
        # The name in Triton, in addition to vLLM's default, which is the path of the model.
        serving.base_model_paths.append(openai.BaseModelPath(name=model_name, model_path=args.model))
    # vLLM's error handler would stop its server when the engine is dead; here the host decides.
    app.state.server = SimpleNamespace(should_exit=False)
    return app  # type: ignore[no-any-return]
