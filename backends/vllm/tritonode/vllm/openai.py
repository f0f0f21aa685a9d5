"""All that depends on vLLM's HTTP application.

Importing this module imports FastAPI and the application's routes; see `openai.application` for when that happens.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from vllm.engine.protocol import EngineClient
from vllm.entrypoints.openai.models.protocol import BaseModelPath
from vllm.entrypoints.openai.models.serving import OpenAIServingModels
from vllm.entrypoints.serve.lora.protocol import LoadLoRAAdapterRequest, UnloadLoRAAdapterRequest
from vllm.exceptions import LoRAAdapterNotFoundError, VLLMNotFoundError

from . import versions

if TYPE_CHECKING:
    # The place in the newest version, for type checkers.
    from vllm.entrypoints.serve.engine.protocol import ErrorResponse, ModelCard, ModelList, ModelPermission
else:
    _protocol = versions.moved("protocol")
    ErrorResponse = _protocol.ErrorResponse
    ModelCard = _protocol.ModelCard
    ModelList = _protocol.ModelList
    ModelPermission = _protocol.ModelPermission

app_state: Any = versions.moved("application_state")
build_app: Any = versions.moved("application").build_app
create_error_response: Any = versions.moved("http_errors").create_error_response

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
    "import_what_answers",
    "serving_models",
]


@contextlib.contextmanager
def serving_models(replacement: type[OpenAIServingModels]) -> Iterator[None]:
    """Let the application's state be built with another class for its list of models."""
    original = app_state.OpenAIServingModels
    app_state.OpenAIServingModels = replacement
    try:
        yield
    finally:
        app_state.OpenAIServingModels = original


# The application imports them when its state is built, on the loop. That took it 2.5 s on a busy machine, in which it
# answered nothing, and a `dispose` waited.
_ANSWERERS = (
    "vllm.entrypoints.anthropic.serving",
    "vllm.entrypoints.generate.api_router",
    "vllm.entrypoints.generate.structured_decisions.api_router",
    "vllm.entrypoints.openai.chat_completion.batch_serving",
    "vllm.entrypoints.openai.chat_completion.serving",
    "vllm.entrypoints.openai.completion.serving",
    "vllm.entrypoints.openai.responses.serving",
    "vllm.entrypoints.pooling.factories",
    "vllm.entrypoints.scale_out.factories",
)


def import_what_answers() -> None:
    """Import the modules of the application's state. One that another version of vLLM does not have is left out."""
    versions.import_present(_ANSWERERS)
