"""All that depends on vLLM's HTTP application: names and import paths of vLLM 0.32.

Importing this module imports FastAPI and the application's routes; see `asgi_app` for when that happens.
"""

from __future__ import annotations

from vllm.engine.protocol import EngineClient
from vllm.entrypoints.launchers.api_server import app_state
from vllm.entrypoints.launchers.app import build_app
from vllm.entrypoints.launchers.cli_args import make_arg_parser, validate_parsed_serve_args
from vllm.entrypoints.openai.models.protocol import BaseModelPath
from vllm.entrypoints.openai.models.serving import OpenAIServingModels
from vllm.entrypoints.serve import create_error_response
from vllm.entrypoints.serve.engine.protocol import ErrorResponse, ModelCard, ModelList, ModelPermission
from vllm.entrypoints.serve.lora.protocol import LoadLoRAAdapterRequest, UnloadLoRAAdapterRequest
from vllm.exceptions import LoRAAdapterNotFoundError, VLLMNotFoundError
from vllm.reasoning import ReasoningParserManager
from vllm.tool_parsers import ToolParserManager
from vllm.utils.argparse_utils import FlexibleArgumentParser

__all__ = [
    "BaseModelPath",
    "EngineClient",
    "ErrorResponse",
    "FlexibleArgumentParser",
    "LoRAAdapterNotFoundError",
    "LoadLoRAAdapterRequest",
    "ModelCard",
    "ModelList",
    "ModelPermission",
    "OpenAIServingModels",
    "ReasoningParserManager",
    "ToolParserManager",
    "UnloadLoRAAdapterRequest",
    "VLLMNotFoundError",
    "app_state",
    "build_app",
    "create_error_response",
    "make_arg_parser",
    "validate_parsed_serve_args",
]
