"""Writes src/model/generated/: vLLM's engine arguments and sampling parameters as TypeScript, with vLLM's own texts.

    <the runtime's Python> scripts/vllm_types.py            # writes the files
    <the runtime's Python> scripts/vllm_types.py --check    # fails if they are not what this vLLM says

Types, defaults and texts come from the installed vLLM; NOTES has what is different under tritonode.
"""

from __future__ import annotations

import dataclasses
import enum
import json
import re
import sys
import textwrap
import types
import typing
from collections.abc import Iterable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
TARGET = ROOT / "src" / "model" / "generated"
WIDTH = 118
MOST_CHARACTERS = 700
FORMATTERS = re.compile(r"[\s()|,]+")
"""What the formatter adds and removes."""

# What tritonode does differently, as a sentence after vLLM's text.
NOTES = {
    "model": "The base model's folder, or a GGUF file (docs/reference/formats.md). Nothing is downloaded.",
    "kv_cache_memory_bytes": "On the CPU the default is a tenth of the free memory, from 256 MiB to 4 GiB.",
    "gpu_memory_utilization": "Not used on the CPU.",
    "max_model_len": "Tokens. On the CPU the default is what fits the KV cache, up to what the model allows.",
    "max_lora_rank": "One of 1, 8, 16, 32, 64, 128, 256, 320 and 512, and at least the largest rank of the adapters.",
    "max_loras": "The default is the number of adapters at the start, at least 4 and at most 16.",
    "max_cpu_loras": "The default is twice max_loras, or the number of adapters, up to 256.",
    "enable_lora": "On by itself where `VllmModel.load` gets `loras`.",
    "block_size": "On the CPU it is rounded up to a multiple of 32.",
    "max_tokens": "`null`: as many as the context holds. (`chat` has no limit by default.)",
    "use_tqdm_on_load": "The default here is false.",
}
# tritonode's own keys of model.json (backends/vllm/tritonode/engine/settings.py).
OWN = {
    "watch_multi_lora": ("boolean", "Read `multi_lora.json` again whenever it changes on disk.", "false"),
    "load_loras_in_background": (
        "boolean",
        "Be ready before the adapters are loaded. A request waits until its own adapter is loaded, and for no other.",
        "false",
    ),
    "unload_timeout": ("number", "Seconds that running requests may take to finish when the model is unloaded.", "30"),
}
# Sampling parameters that generate and stream do not give the results of, or that are for vLLM's own use.
NO_TEXT = "vLLM has no text about it."
LEFT_OUT = {
    "prompt_logprobs",
    "prompt_logprob_token_ids",
    "prompt_logprob_start",
    "flat_logprobs",
    "detokenize",
    "stream_interval",
    "routed_experts_prompt_start",
    "trace_decode_token_ids",
}
# Engine arguments that are refused here (settings.py), or that are another name of one that is listed.
NOT_HERE = re.compile(
    r"^(data_parallel_.*|nnodes|node_rank|master_addr|master_port|headless|tokens_only|model_weights)$"
)
# Types that TypeScript can say better than the annotation.
TYPES = {
    "structured_outputs": "StructuredOutputs | null",
    "logit_bias": "Readonly<Record<string, number>> | null",
    "repetition_detection": "object | null",
}
STRUCTURED = {
    "json": "A JSON schema, as an object or as JSON text.",
    "regex": "A regular expression that the whole text matches.",
    "choice": "The texts to choose from.",
    "grammar": "A grammar in EBNF.",
    "json_object": "Any JSON object.",
    "structural_tag": "A structural tag of xgrammar, as JSON text.",
    "disable_any_whitespace": "No white space between tokens of JSON: small models may otherwise fill a text with it.",
    "disable_additional_properties": "Objects hold only the properties that their schema names.",
    "whitespace_pattern": "A regular expression for the white space between the tokens of JSON.",
}


def ts_type(hint: Any) -> str:
    """A Python type hint as TypeScript; what has no equivalent is `object` or `unknown`."""
    simple = {bool: "boolean", int: "number", float: "number", str: "string", type(None): "null", dict: "object"}
    if hint in simple:
        return simple[hint]
    if isinstance(hint, typing.ForwardRef | str) or hint is Any:
        return "unknown"
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin is typing.Literal:
        if not all(isinstance(arg, str) for arg in args):
            return "number"
        # Open, so that a variable whose type is any string fits too; the editor lists the names all the same.
        return " | ".join([*(f'"{arg}"' for arg in args), "(string & {})"])
    if origin in (typing.Union, types.UnionType):
        members = list(dict.fromkeys(ts_type(arg) for arg in args if typing.get_origin(arg) is not type))
        return "unknown" if "unknown" in members else " | ".join(members)
    if origin in (list, set, tuple):
        inner = ts_type(args[0]) if args else "unknown"
        return f"readonly ({inner})[]" if " " in inner else f"readonly {inner}[]"
    if origin is dict:
        return f"Readonly<Record<string, {ts_type(args[1]) if args else 'unknown'}>>"
    if isinstance(hint, type) and issubclass(hint, enum.Enum):
        return "string | number"
    if dataclasses.is_dataclass(hint):
        return "object"
    return "unknown"


def value_kinds(hint: Any) -> list[str]:
    """What a value of the type may be, for the check before a load (src/model/engine-check.ts).

    `=x` is the choice x. `any` alone: only vLLM can check it. tritonode/coerce.py reads values by the same rules.
    """
    simple = {bool: "boolean", int: "integer", float: "number", str: "string", type(None): "null"}
    if hint in simple:
        return [simple[hint]]
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin is typing.Literal:
        return [f"={arg}" for arg in args]
    if origin is typing.Annotated:
        return value_kinds(args[0])
    if origin in (typing.Union, types.UnionType):
        kinds = list(dict.fromkeys(kind for arg in args for kind in value_kinds(arg)))
        return ["any"] if "any" in kinds else kinds
    if origin is list:
        return ["array"]
    if origin is dict:
        return ["object"]
    return ["any"]


def plain(text: str) -> str:
    """vLLM's text without what is about its command line; whole paragraphs, as far as they are short."""
    text = text.replace("``", "`").replace("`None`", "`null`").replace("*/", "*\\/")
    paragraphs = re.split(r"\n\s*\n", text.strip())
    # What follows describes the parsing of command lines, and examples of it.
    for at, paragraph in enumerate(paragraphs):
        if re.match(r"Parse human-readable|Should either be a valid JSON|When passing via|NOTE:", paragraph):
            paragraphs = paragraphs[:at]
            break
    kept: list[str] = []
    for paragraph in paragraphs:
        if kept and sum(map(len, kept)) + len(paragraph) > MOST_CHARACTERS:
            break
        kept.append(paragraph)
    return "\n\n".join(kept).strip().rstrip(":")


def comment(text: str, default: str | None) -> list[str]:
    """The lines of a JSDoc comment, indented for a member."""
    lines: list[str] = []
    for paragraph in text.split("\n\n"):
        items = re.split(r"\n(?=\s*[-*] )", paragraph)
        for item in items:
            flat = " ".join(item.split())
            lines += textwrap.wrap(flat, WIDTH - 5, subsequent_indent="  " if flat[:2] in ("- ", "* ") else "") or [""]
        lines.append("")
    while lines and lines[-1] == "":
        lines.pop()
    if default is not None:
        lines.append(f"@defaultValue {default}")
    if len(lines) == 1:
        return [f"  /** {lines[0]} */"]
    return ["  /**", *(f"   * {line}".rstrip() for line in lines), "   */"]


def default_of(value: Any) -> str | None:
    """A default as it is written in JSON; None where there is none worth telling."""
    if value is dataclasses.MISSING or isinstance(value, type) or value is None:
        return None
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int | float):
        return str(value)
    if isinstance(value, str):
        return f'"{value}"' if value else None
    return None


def member(name: str, kind: str, text: str, default: str | None, *, required: bool = False) -> list[str]:
    note = NOTES.get(name)
    whole = " ".join(filter(None, [text])) if note is None else "\n\n".join(filter(None, [text, note]))
    if name == "model":
        whole = str(note)
    optional = "" if required else "?"
    return [*comment(whole, default), f"  {name}{optional}: {kind};"]


def header(version: str, what: str) -> list[str]:
    return [
        f"// Generated by scripts/vllm_types.py from vLLM {version}: do not edit. {what}",
        "// The texts are vLLM's own (Apache-2.0, the vLLM project).",
        "",
    ]


def engine_arguments(version: str) -> str:
    """EngineArguments, and the names of all of them."""
    from tritonode.vllm.arguments import AsyncEngineArgs, engine_arg_types, frontend_arg_types
    from vllm.entrypoints.launchers.cli_args import make_arg_parser
    from vllm.utils.argparse_utils import FlexibleArgumentParser

    helps = {action.dest: action.help or "" for action in make_arg_parser(FlexibleArgumentParser())._actions}
    defaults = {f.name: f.default for f in dataclasses.fields(AsyncEngineArgs)}
    lines = header(version, "Every engine argument, and those of `vllm serve` that concern its answers.")
    lines += [
        "/** vLLM's engine arguments, under vLLM's names: what `model.json` holds. */",
        "export interface EngineArguments {",
        *member("model", "string", "", None, required=True),
    ]
    known = {"model"}
    for name, hint in sorted(engine_arg_types().items()):
        if name not in known and not NOT_HERE.match(name):
            known.add(name)
            lines += member(name, ts_type(hint), plain(helps.get(name, "")) or NO_TEXT, default_of(defaults[name]))
    for name, hint in sorted(frontend_arg_types().items()):
        if name not in known:
            known.add(name)
            lines += member(name, ts_type(hint), plain(helps.get(name, "")) or NO_TEXT, None)
    for name, (kind, text, default) in OWN.items():
        lines += member(name, kind, f"tritonode's own: {text}", default)
    lines += ["  [argument: string]: unknown;", "}", ""]
    return "\n".join(lines)


def argument_kinds(version: str) -> str:
    """Every engine argument's name, those of earlier versions too, and what its value may be."""
    from tritonode.engine.settings import OWN_KEYS, RETIRED_KEYS
    from tritonode.vllm.arguments import engine_arg_types, frontend_arg_types

    kinds = {name: ["any"] for name in RETIRED_KEYS}
    for hints in (frontend_arg_types(), OWN_KEYS, engine_arg_types()):
        kinds |= {name: value_kinds(hint) for name, hint in hints.items()}
    lines = header(version, "Engine arguments and what their values may be (value_kinds).")
    lines += ["/** The version of vLLM whose arguments these are. */", f'export const vllmVersion = "{version}";', ""]
    lines += ["export const argumentKinds: Readonly<Record<string, readonly string[]>> = {"]
    lines += [f"  {name}: {json.dumps(kinds[name])}," for name in sorted(kinds)]
    lines += ["};", ""]
    return "\n".join(lines)


def sampling_parameters(version: str) -> str:
    """SamplingParameters and StructuredOutputs."""
    from tritonode.vllm.requests import SamplingParams, sampling_param_types, structured_output_types
    from vllm.config.utils import get_attr_docs

    texts = get_attr_docs(SamplingParams)
    defaults = SamplingParams()
    lines = header(version, "Every sampling parameter that a request may set.")
    lines += [
        "/**",
        " * vLLM's sampling parameters, under vLLM's own names and with vLLM's own defaults. One that is not listed",
        " * goes into `extra`. vLLM checks them all; an unknown one is an {@link InvalidArgumentError} that names the",
        " * nearest.",
        " */",
        "export interface SamplingParameters {",
    ]
    for name, hint in sampling_param_types().items():
        if name not in LEFT_OUT:
            kind = TYPES.get(name) or ts_type(hint)
            lines += member(name, kind, plain(texts.get(name, "")) or NO_TEXT, default_of(getattr(defaults, name)))
    lines += ["}", "", "/** vLLM's `StructuredOutputsParams`; exactly one kind of constraint. */"]
    lines += ["export interface StructuredOutputs {"]
    for name, hint in structured_output_types().items():
        kind = "object | string" if name == "json" else ts_type(hint).replace(" | null", "")
        lines += [*comment(STRUCTURED.get(name, NO_TEXT), None), f"  {name}?: {kind};"]
    lines += ["}", ""]
    return "\n".join(lines)


def generate() -> dict[str, str]:
    """The content of each file by its name."""
    # vLLM leaves its texts out unless its help is asked for.
    sys.argv = ["vllm", "serve", "--help"]
    sys.path.insert(0, str(ROOT / "backends" / "vllm"))
    from tritonode.engine import environment

    environment.prepare()
    from tritonode.vllm.engine import VERSION

    version = str(VERSION).split("+")[0]
    return {
        "engine-arguments.ts": engine_arguments(version),
        "argument-kinds.ts": argument_kinds(version),
        "sampling-parameters.ts": sampling_parameters(version),
    }


def stale(files: dict[str, str]) -> Iterable[str]:
    """The names of the files that are not what is on the disk, the formatter's changes aside."""
    for name, content in files.items():
        path = TARGET / name
        if not path.exists() or FORMATTERS.sub("", path.read_text()) != FORMATTERS.sub("", content):
            yield name


def main() -> int:
    check = "--check" in sys.argv[1:]
    files = generate()
    if check:
        old = list(stale(files))
        if old:
            print(f"not what this vLLM says: {', '.join(old)}; run scripts/vllm_types.py with this Python")
        return 1 if old else 0
    TARGET.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        (TARGET / name).write_text(content)
    return 0


if __name__ == "__main__":
    sys.exit(main())
