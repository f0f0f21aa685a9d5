"""Changes the engine arguments of a model that is a GGUF file."""

from __future__ import annotations

import os
import tempfile

from tritonode.errors import SettingsError
from tritonode.gguf.folder import METHOD, is_gguf, write_folder

from .settings import EngineSettings

_folders: list[tempfile.TemporaryDirectory[str]] = []


def use_gguf(settings: EngineSettings, private_directory: str | None, name: str, *, on_cpu: bool) -> str | None:
    """If `model` is a GGUF file, make vLLM load it. Returns a line for the log.

    vLLM gets a folder with the configuration and the tokenizer that the file holds; its weights come from the file.

    Args:
        settings: changed in place.
        private_directory: of the host, which removes it; None: a temporary folder of this process.
        name: the model's name in Triton.
        on_cpu: whether weights can stay quantised; on other devices they become the numbers that they stand for.

    Raises GgufError (INVALID_ARG) for a file that cannot be served.
    """
    args = settings.engine_args
    path = str(args["model"])
    if not is_gguf(path) or os.path.isdir(path):
        return None
    if settings.world_size > 1:
        raise SettingsError(
            f"{path}: a GGUF file is served by one rank; unset tensor_parallel_size and pipeline_parallel_size, or use "
            "the model's Hugging Face folder"
        )
    for key in ("quantization", "load_format"):
        if args.get(key, "auto") not in ("auto", METHOD, None):
            raise SettingsError(f"{path}: engine argument '{key}' is {args[key]!r}: unset it for a GGUF file")
    path = os.path.abspath(path)
    if private_directory is None:
        temporary = tempfile.TemporaryDirectory(prefix="tritonode-gguf-")
        _folders.append(temporary)
        folder = temporary.name
    else:
        folder = os.path.join(private_directory, "models", name, "gguf")
        os.makedirs(folder, mode=0o700, exist_ok=True)
    write_folder(path, folder, packed=on_cpu, tokenizer=args.get("tokenizer") is None)
    _install()
    args["model"] = folder
    args.setdefault("served_model_name", [path])
    args.pop("quantization", None)
    args["load_format"] = METHOD
    args["model_loader_extra_config"] = {"file": path}
    kept = "quantised as in the file" if on_cpu else "dequantised, because packed weights are computed on CPUs alone"
    return f"{path}: weights are {kept}"


def _install() -> None:
    from tritonode.cpu import gguf_model

    gguf_model.install()
