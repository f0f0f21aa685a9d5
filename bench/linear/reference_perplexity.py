"""The measure of perplexity.mjs: log-probabilities by transformers on a GGUF file's weights, dequantised, in float32.

    python bench/linear/reference_perplexity.py MODEL.gguf WINDOWS.json

WINDOWS.json is a list of lists of token ids. Stdout: a JSON list with one list for each window.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, GgufConfig


def main() -> None:
    """Read, compute, write."""
    file, windows = Path(sys.argv[1]), json.loads(Path(sys.argv[2]).read_text("utf-8"))
    model = AutoModelForCausalLM.from_pretrained(
        file.parent, gguf_file=file.name, dtype=torch.float32, quantization_config=GgufConfig(dequantize=True)
    )
    found = []
    for window in windows:
        with torch.inference_mode():
            logits = model(input_ids=torch.tensor([window])).logits[0, :-1].log_softmax(-1)
        found.append(logits.gather(1, torch.tensor(window[1:])[:, None])[:, 0].tolist())
    json.dump(found, sys.stdout)


if __name__ == "__main__":
    main()
