"""The arguments of `vllm serve` for vLLM's HTTP application, from `model.json`; checked when the model is loaded."""

from __future__ import annotations

from typing import Any

from tritonode.errors import SettingsError, did_you_mean
from tritonode.vllm.arguments import AsyncEngineArgs
from tritonode.vllm.requests import REQUEST_ERRORS


def serve_arguments(engine_args: dict[str, Any], frontend_args: dict[str, Any]) -> Any:
    """The namespace that vLLM's application reads, with vLLM's own defaults for what is not set.

    `frontend_args` are the arguments other than the engine's (`frontend_arg_types`).

    Raises SettingsError for arguments that do not fit together and for a parser that vLLM does not have.
    """
    # Imported here, because it imports the HTTP application's modules.
    from tritonode.vllm.frontend import (
        FlexibleArgumentParser,
        ReasoningParserManager,
        ToolParserManager,
        make_arg_parser,
        validate_parsed_serve_args,
    )

    args = make_arg_parser(FlexibleArgumentParser()).parse_args([])
    engine = AsyncEngineArgs(**engine_args)
    for name in vars(engine):
        if hasattr(args, name):
            setattr(args, name, getattr(engine, name))
    for name, value in frontend_args.items():
        setattr(args, name, value)
    # No API key: VLLM_API_KEY in the environment is meant for a server, and this application has no port.
    args.api_key = [""]
    if isinstance(args.served_model_name, str):
        args.served_model_name = [args.served_model_name]
    try:
        validate_parsed_serve_args(args)
        if args.tool_parser_plugin:
            ToolParserManager.import_tool_parser(args.tool_parser_plugin)
        if args.reasoning_parser_plugin:
            ReasoningParserManager.import_reasoning_parser(args.reasoning_parser_plugin)
    except REQUEST_ERRORS as failure:
        raise SettingsError(f"model.json: {failure}") from failure
    _check_parser("tool_call_parser", args.tool_call_parser, ToolParserManager.list_registered())
    _check_parser("reasoning_parser", args.reasoning_parser, ReasoningParserManager.list_registered())
    return args


def _check_parser(argument: str, name: str | None, known: list[str]) -> None:
    if name and name not in known:
        raise SettingsError(f"model.json: vLLM has no {argument} '{name}'{did_you_mean(name, known)}")
