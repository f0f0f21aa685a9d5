"""What the arguments of `vllm serve` need. Importing this module imports the HTTP application's modules."""

from __future__ import annotations

from typing import Any

from vllm.reasoning import ReasoningParserManager
from vllm.tool_parsers import ToolParserManager
from vllm.utils.argparse_utils import FlexibleArgumentParser

from . import versions

_arguments: Any = versions.moved("serve_arguments")
BaseFrontendArgs = _arguments.BaseFrontendArgs
make_arg_parser = _arguments.make_arg_parser
validate_parsed_serve_args = _arguments.validate_parsed_serve_args

__all__ = [
    "BaseFrontendArgs",
    "FlexibleArgumentParser",
    "ReasoningParserManager",
    "ToolParserManager",
    "make_arg_parser",
    "validate_parsed_serve_args",
]
