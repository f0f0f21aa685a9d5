"""Quantises the linear layers of a Hugging Face folder to 4 or 8 bits: `python -m tritonode.quantise SRC OUT --bits 4`.

The result is a Hugging Face folder in compressed-tensors' "pack-quantized" format (W4A16 or W8A16), which this backend
and others load. Weights are rounded to the nearest of a grid for each group of inputs; of a few grids the one with the
least square error is taken. One tensor is in memory at a time, and one output file of at most 1 GiB.

Each line of progress on stdout is a JSON object with the key "quantise".
"""

from __future__ import annotations

import argparse
import contextlib
import json
import math
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from tritonode.errors import BackendError, SettingsError

_FILE_BYTES = 1 << 30
_BITS = (4, 8)
_LEAST_GROUP = 32
_GROUPS_OF_8_BITS = (128, 64)
# Shares of a group's range that its grid is tried with: leaving out an outlier can lower the error of all the others.
_SHARES = (1.0, 0.95, 0.9, 0.85, 0.8)
_ENDINGS = ("_proj.weight", ".fc1.weight", ".fc2.weight", ".out_proj.weight", ".dense.weight")
_WEIGHTS = (".safetensors", ".bin", ".pt", ".pth", ".gguf", ".index.json")
_PERPLEXITY_TOKENS = 2048

Report = Callable[..., None]


def report(phase: str, **details: Any) -> None:
    print(json.dumps({"quantise": phase, **details}), flush=True)


def quantise(source: Path, out: Path, bits: int, tell: Report = report) -> int:
    """Write the quantised folder. Returns the number of layers that were quantised.

    Raises SettingsError (INVALID_ARG) for a folder that cannot be quantised, or an `out` that is there already.
    """
    config = _check(source, out)
    from safetensors.torch import save_file

    files = sorted(source.glob("*.safetensors"))
    total, done = sum(file.stat().st_size for file in files), 0
    out.parent.mkdir(parents=True, exist_ok=True)
    work = Path(tempfile.mkdtemp(prefix=f".{out.name}.new-", dir=out.parent))
    try:
        group = _group(files, bits)
        writer = _Writer(work, save_file)
        layers, left = 0, []
        for file in files:
            with _opened(file) as tensors:
                for name in tensors.keys():  # noqa: SIM118 (no mapping)
                    tensor = tensors.get_tensor(name)
                    done += tensor.numel() * tensor.element_size()
                    if _is_quantised(name, list(tensor.shape)):
                        _check_weight(f"'{name}' of {file}", tensor)
                        for each, made in packed(name.removesuffix(".weight"), tensor, bits, group).items():
                            if made.is_floating_point() and not bool(made.isfinite().all()):
                                raise SettingsError(
                                    f"'{name}' of {file} has weights too large for scales of {made.dtype}"
                                )
                            writer.add(each, made)
                        layers += 1
                    else:
                        if tensor.dim() == 2 and "embed" not in name:
                            left.append(name.removesuffix(".weight"))
                        writer.add(name, tensor)
                    tell("weights", name=name, fraction=min(1.0, done / total))
        if layers == 0:
            raise SettingsError(f"{source} has no linear layers whose names end in {', '.join(_ENDINGS)}")
        writer.close()
        config["quantization_config"] = _format(bits, group, sorted({"lm_head", *left}))
        for file in source.iterdir():
            if file.is_file() and not file.name.endswith(_WEIGHTS):
                shutil.copy(file, work)
        (work / "config.json").write_text(json.dumps(config, indent=2) + "\n", "utf-8")
        work.chmod(0o755)
        os.rename(work, out)
    finally:
        shutil.rmtree(work, ignore_errors=True)
    return layers


def _check(source: Path, out: Path) -> dict[str, Any]:
    if out.exists():
        raise SettingsError(f"{out} exists already; name a new folder")
    if not source.is_dir():
        raise SettingsError(f"there is no folder {source}")
    try:
        config = json.loads((source / "config.json").read_text("utf-8"))
    except FileNotFoundError:
        raise SettingsError(f"{source} is not a Hugging Face folder: it has no config.json") from None
    except (ValueError, RecursionError) as failure:
        raise SettingsError(f"{source / 'config.json'} is not valid JSON: {failure}") from failure
    if not isinstance(config, dict) or config.get("quantization_config"):
        raise SettingsError(f"{source} is quantised already, or its config.json is not an object")
    if any(config.get(f"num_{name}experts") for name in ("", "local_", "routed_")):
        raise SettingsError(f"{source} is a mixture of experts, which is not quantised")
    if not any(source.glob("*.safetensors")):
        raise SettingsError(f"{source} holds no .safetensors files; other weights are not read")
    return config


@contextlib.contextmanager
def _opened(file: Path) -> Iterator[Any]:
    """Raises SettingsError for a file that is damaged, whenever that is noticed."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(file, framework="pt") as tensors:
            yield tensors
    except SafetensorError as failure:
        raise SettingsError(f"{file} is not a valid safetensors file: {failure}") from failure


def _check_weight(what: str, weight: Any) -> None:
    if not weight.is_floating_point():
        raise SettingsError(f"{what} is of {weight.dtype}: floating-point weights are quantised, others are not")
    if not bool(weight.float().isfinite().all()):
        raise SettingsError(f"{what} holds an infinity or a NaN")


def _is_quantised(name: str, shape: list[int]) -> bool:
    return len(shape) == 2 and name.endswith(_ENDINGS) and shape[1] % _LEAST_GROUP == 0


def _group(files: list[Path], bits: int) -> int:
    """Inputs that share a scale, one number for all layers: more for 8 bits, where every layer's inputs allow it."""
    inputs = set()
    for file in files:
        with _opened(file) as tensors:
            for name in tensors.keys():  # noqa: SIM118 (no mapping)
                shape = tensors.get_slice(name).get_shape()
                if _is_quantised(name, shape):
                    inputs.add(shape[1])
    larger = _GROUPS_OF_8_BITS if bits == 8 else ()
    return next((group for group in larger if all(each % group == 0 for each in inputs)), _LEAST_GROUP)


def packed(name: str, weight: Any, bits: int, group: int) -> dict[str, Any]:
    """The tensors of one quantised weight [outputs, inputs]; 4 bits with zero points, 8 bits symmetric."""
    import torch

    outputs, inputs = weight.shape
    groups = weight.float().reshape(outputs, -1, group)
    best: list[torch.Tensor] = []
    for share in _SHARES:
        numbers, scales, zeros = _rounded(groups, bits, share)
        error = (scales[..., None] * (numbers - zeros[..., None]) - groups).square().sum(-1)
        if not best:
            best = [numbers, scales, zeros, error]
            continue
        better = error < best[3]
        best = [
            torch.where(better if old.dim() == 2 else better[..., None], new, old)
            for old, new in zip(best, (numbers, scales, zeros, error), strict=True)
        ]
    numbers, scales, zeros, _ = best
    kind = weight.dtype if weight.dtype != torch.float32 else torch.float16
    made = {
        f"{name}.weight_packed": _int32(numbers.reshape(outputs, inputs), bits),
        f"{name}.weight_scale": scales.to(kind),
        f"{name}.weight_shape": torch.tensor([outputs, inputs]),
    }
    if bits == 4:
        made[f"{name}.weight_zero_point"] = _int32(zeros.T, bits).T.contiguous()
    return made


def _rounded(groups: Any, bits: int, share: float) -> tuple[Any, Any, Any]:
    """Numbers, scales (already rounded to bfloat16, which every scale is kept in without loss) and zero points."""
    import torch

    most = (1 << bits) - 1
    if bits == 8:
        scales = groups.abs().amax(-1) * share / (most // 2)
        zeros = torch.full_like(scales, (most + 1) // 2)
    else:
        low, high = groups.amin(-1).clamp(max=0) * share, groups.amax(-1).clamp(min=0) * share
        scales = (high - low) / most
        zeros = (-low / scales.clamp(min=1e-12)).round().clamp(0, most)
    scales = scales.clamp(min=1e-6).bfloat16().float()
    numbers = (groups / scales[..., None] + zeros[..., None]).round().clamp(0, most)
    return numbers, scales, zeros


def _int32(numbers: Any, bits: int) -> Any:
    """Each run of ``32 / bits`` numbers of a row in one int32, the first in the lowest bits; padded with zeros."""
    import torch

    each = 32 // bits
    rows = torch.nn.functional.pad(numbers.to(torch.int64), (0, -numbers.shape[1] % each)).reshape(
        numbers.shape[0], -1, each
    )
    whole = (rows << (bits * torch.arange(each))).sum(-1)
    return torch.where(whole >= 1 << 31, whole - (1 << 32), whole).to(torch.int32).contiguous()


def _format(bits: int, group: int, ignore: list[str]) -> dict[str, Any]:
    weights = {
        "num_bits": bits, "type": "int", "symmetric": bits == 8, "strategy": "group", "group_size": group,
        "dynamic": False, "actorder": None,
    }  # fmt: skip
    return {
        "quant_method": "compressed-tensors",
        "format": "pack-quantized",
        "quantization_status": "compressed",
        "ignore": ignore,
        "config_groups": {"group_0": {"targets": ["Linear"], "weights": weights, "input_activations": None}},
    }


class _Writer:
    """Collects tensors into files of at most about 1 GiB, with the index that transformers reads."""

    def __init__(self, folder: Path, save: Callable[..., None]) -> None:
        self._folder = folder
        self._save = save
        self._tensors: dict[str, Any] = {}
        self._bytes = self._total = 0
        self._files: list[list[str]] = []

    def add(self, name: str, tensor: Any) -> None:
        size = tensor.numel() * tensor.element_size()
        if self._tensors and self._bytes + size > _FILE_BYTES:
            self._flush()
        self._tensors[name] = tensor
        self._bytes += size

    def _flush(self) -> None:
        self._files.append(sorted(self._tensors))
        path = self._folder / f"part-{len(self._files)}.safetensors"
        self._save(self._tensors, path, metadata={"format": "pt"})
        path.chmod(0o644)
        self._total += self._bytes
        self._tensors, self._bytes = {}, 0

    def close(self) -> None:
        self._flush()
        count = len(self._files)
        index: dict[str, str] = {}
        for number, names in enumerate(self._files, 1):
            name = "model.safetensors" if count == 1 else f"model-{number:05}-of-{count:05}.safetensors"
            os.rename(self._folder / f"part-{number}.safetensors", self._folder / name)
            index |= dict.fromkeys(names, name)
        if count > 1:
            content = {"metadata": {"total_size": self._total}, "weight_map": index}
            (self._folder / "model.safetensors.index.json").write_text(json.dumps(content), "utf-8")


def perplexity(model: Path, text: str) -> float:
    """The perplexity of a text's first tokens, by the engine that serves the model."""
    from tritonode.engine import environment

    environment.prepare()
    environment.prepare_vllm()
    from tritonode.cpu import checkpoint_layers, punica_wrapper
    from tritonode.engine.engine import Engine, available_memory
    from tritonode.engine.settings import EngineSettings, apply_defaults
    from tritonode.vllm.platform import is_cpu
    from tritonode.vllm.requests import SamplingParams

    args: dict[str, Any] = {"model": str(model), "max_model_len": _PERPLEXITY_TOKENS, "max_num_seqs": 1}
    settings = EngineSettings(args | {"enforce_eager": True}, False)
    apply_defaults(settings, on_cpu=is_cpu(), available_memory=available_memory())
    if is_cpu():
        punica_wrapper.install()
        checkpoint_layers.install()
    engine = Engine(settings, [], lambda *_, **__: None)
    engine.start()
    try:

        async def ask() -> list[float]:
            tokenizer = engine.llm.get_tokenizer()
            ids = list(tokenizer(text).input_ids)[: _PERPLEXITY_TOKENS - 1]
            if len(ids) < 2:
                raise SettingsError("the text for the perplexity has no two tokens")
            params = SamplingParams(temperature=0.0, max_tokens=1, prompt_logprobs=0, detokenize=False)
            outputs = engine.llm.generate({"prompt_token_ids": ids}, params, "perplexity")
            found: Any = [output async for output in outputs][-1].prompt_logprobs
            return [position[token].logprob for token, position in zip(ids[1:], found[1:], strict=True)]

        logprobs = engine.call(ask()).result()
    finally:
        engine.stop()
    return math.exp(-sum(logprobs) / len(logprobs))


def main(argv: list[str] | None = None) -> int:
    """The command line; see above."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("source", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--bits", type=int, choices=_BITS, default=4)
    parser.add_argument("--text", type=Path, help="measure the perplexity of this text before and after")
    options = parser.parse_args(argv)
    try:
        text = options.text.read_text("utf-8") if options.text else ""
        layers = quantise(options.source.resolve(), options.out.resolve(), options.bits)
        details: dict[str, Any] = {"layers": layers}
        if text:
            report("perplexity", fraction=0.0)
            before = perplexity(options.source.resolve(), text)
            report("perplexity", fraction=0.5)
            details |= {"before": before, "after": perplexity(options.out.resolve(), text)}
    except (BackendError, OSError) as failure:
        report("error", message=str(failure))
        return 1
    report("done", **details)
    return 0


if __name__ == "__main__":
    sys.exit(main())
