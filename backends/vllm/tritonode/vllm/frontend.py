"""What the arguments of `vllm serve` need. Importing this module imports the HTTP application's modules."""

from __future__ import annotations

from vllm.entrypoints.launchers.cli_args import BaseFrontendArgs, make_arg_parser, validate_parsed_serve_args
from vllm.reasoning import ReasoningParserManager
from vllm.tool_parsers import ToolParserManager
from vllm.utils.argparse_utils import FlexibleArgumentParser

__all__ = [
    "BaseFrontendArgs",
    "FlexibleArgumentParser",
    "ReasoningParserManager",
    "ToolParserManager",
    "make_arg_parser",
    "validate_parsed_serve_args",
]
