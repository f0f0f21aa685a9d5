"""All that depends on vLLM's HTTP application: names and import paths of vLLM 0.32.

Importing this module imports FastAPI and the application's routes; see `openai.application` for when that happens.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from vllm.engine.protocol import EngineClient
from vllm.entrypoints.launchers.api_server import app_state
from vllm.entrypoints.launchers.app import build_app
from vllm.entrypoints.openai.models.protocol import BaseModelPath
from vllm.entrypoints.openai.models.serving import OpenAIServingModels
from vllm.entrypoints.serve import create_error_response
from vllm.entrypoints.serve.engine.protocol import ErrorResponse, ModelCard, ModelList, ModelPermission
from vllm.entrypoints.serve.lora.protocol import LoadLoRAAdapterRequest, UnloadLoRAAdapterRequest
from vllm.exceptions import LoRAAdapterNotFoundError, VLLMNotFoundError

__all__ = [
    "BaseModelPath",
    "EngineClient",
    "ErrorResponse",
    "LoRAAdapterNotFoundError",
    "LoadLoRAAdapterRequest",
    "ModelCard",
    "ModelList",
    "ModelPermission",
    "OpenAIServingModels",
    "UnloadLoRAAdapterRequest",
    "VLLMNotFoundError",
    "app_state",
    "build_app",
    "create_error_response",
    "serving_models",
]


@contextlib.contextmanager
def serving_models(replacement: type[OpenAIServingModels]) -> Iterator[None]:
    """Let the application's state be built with another class for its list of models."""
    original = app_state.OpenAIServingModels
    app_state.OpenAIServingModels = replacement  # type: ignore[misc]
    try:
        yield
    finally:
        app_state.OpenAIServingModels = original  # type: ignore[misc]
