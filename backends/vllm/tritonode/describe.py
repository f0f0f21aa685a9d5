"""Says what models and adapters are from their files' headers: `python -m tritonode.describe model PATH`.

Needs neither torch nor vLLM, which is asked only where an adapter does not seem to fit its base model. Each line on
stdout is a JSON object: a description, or `{"error": message}`.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import sys
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

from tritonode.errors import BackendError, SettingsError
from tritonode.gguf.config import make_config
from tritonode.gguf.folder import is_gguf, write_folder
from tritonode.gguf.names import named_tensors
from tritonode.gguf.reader import GgufError, GgufFile
from tritonode.lora.checkpoint import architectures
from tritonode.lora.files import check_finite, inspect_adapter
from tritonode.lora.header import read_safetensors_header

_CONFIG = "config.json"


def describe_model(path: str) -> dict[str, Any]:
    """What a Hugging Face folder or a GGUF file holds. Raises SettingsError for what is none."""
    return _gguf(path) if is_gguf(path) and os.path.isfile(path) else _folder(path)


def _folder(path: str) -> dict[str, Any]:
    config = _json(os.path.join(path, _CONFIG))
    if config is None:
        raise SettingsError(f"{path} is not the folder of a model: it has no readable {_CONFIG}")
    # Models that see or hear keep their language model's settings in a part of their own.
    part = config.get("text_config")
    text = config | part if isinstance(part, dict) else config
    types: Counter[str] = Counter()
    problems: list[str] = []
    files = sorted(Path(path).glob("*.safetensors"))
    if not files:
        problems.append("it holds no safetensors file")
    for file in files:
        try:
            for entry in read_safetensors_header(str(file)).values():
                types[entry["dtype"]] += math.prod(entry["shape"])
        except (OSError, SettingsError) as failure:
            problems.append(str(failure))
    quantization = config.get("quantization_config")
    named = config.get("architectures")
    return {
        "path": path,
        "kind": "folder",
        "architecture": named[0] if isinstance(named, list) and named else None,
        "parameters": types.total(),
        "types": dict(types.most_common()),
        "quantization": quantization.get("quant_method") if isinstance(quantization, dict) else None,
        "bytes": sum(file.stat().st_size for file in files),
        "layers": text.get("num_hidden_layers"),
        "hidden_size": text.get("hidden_size"),
        "vocabulary": text.get("vocab_size"),
        "context": text.get("max_position_embeddings"),
        "chat_template": _has_template(path),
        "problems": problems,
    }


def _has_template(path: str) -> bool:
    """Whether transformers finds a chat template: a file of its own, or a key of the tokenizer's settings."""
    if any(os.path.isfile(os.path.join(path, name)) for name in ("chat_template.jinja", "chat_template.json")):
        return True
    return bool((_json(os.path.join(path, "tokenizer_config.json")) or {}).get("chat_template"))


def _gguf(path: str) -> dict[str, Any]:
    with GgufFile(path) as file:
        types: Counter[str] = Counter()
        for tensor in file.tensors.values():
            types[tensor.type.name] += math.prod(tensor.shape)
        problems: list[str] = []
        config: dict[str, Any] = {}
        try:
            config = make_config(file)
            named_tensors(file)
        except GgufError as failure:
            problems.append(str(failure))
        named = config.get("architectures") or [file.text("general.architecture")]
        return {
            "path": path,
            "kind": "gguf",
            "architecture": named[0],
            "parameters": types.total(),
            "types": dict(types.most_common()),
            # Norms are few and in float32: the type of most weights names the format.
            "quantization": types.most_common(1)[0][0] if types else None,
            "bytes": os.path.getsize(path),
            "layers": config.get("num_hidden_layers"),
            "hidden_size": config.get("hidden_size"),
            "vocabulary": config.get("vocab_size"),
            "context": config.get("max_position_embeddings"),
            "chat_template": bool(file.text("tokenizer.chat_template")),
            "problems": problems,
        }


def describe_adapter(path: str, base: str | None) -> dict[str, Any]:
    """What an adapter's folder holds, and whether it can be served: on `base`, the folder of a model, where given."""
    try:
        files = inspect_adapter(path, base_model=base, renamed=lambda: _renames(base))
        if files.usable:
            check_finite(path)
        return files.as_dict()
    except (OSError, BackendError) as failure:
        return {"path": path, "loadable": False, "problems": [str(failure)]}


def _renames(base: str | None) -> bool:
    """Whether the model may call its modules by other names than its checkpoint. Asks vLLM, which takes seconds."""
    from tritonode.vllm.lora import renames_weights

    return base is not None and renames_weights(architectures(base))


def _json(path: str) -> dict[str, Any] | None:
    try:
        value = json.loads(Path(path).read_text("utf-8"))
    except (OSError, ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def main(argv: list[str] | None = None) -> int:
    """The command line; see above."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("model").add_argument("path")
    adapters = commands.add_parser("adapters")
    adapters.add_argument("--model")
    adapters.add_argument("paths", nargs="*")
    options = parser.parse_args(argv)
    try:
        if options.command == "model":
            print(json.dumps(describe_model(options.path)))
            return 0
        with tempfile.TemporaryDirectory(prefix="tritonode-describe-") as folder:
            base = options.model
            if base is not None:
                describe_model(base)
                if is_gguf(base) and os.path.isfile(base):
                    write_folder(base, folder, packed=True, tokenizer=False)
                    base = folder
            for path in options.paths:
                print(json.dumps(describe_adapter(path, base)), flush=True)
    except (OSError, BackendError) as failure:
        print(json.dumps({"error": str(failure)}))
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
