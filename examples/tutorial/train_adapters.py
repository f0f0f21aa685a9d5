"""Train the tutorial's two LoRA adapters on SmolLM2-135M-Instruct with PEFT.

Both learn from the same 20 questions of ``training_data.json``; only the style of
the answers differs, so what an adapter adds is easy to see:

* ``alpaca`` talks like a pirate: ``Arrr, matey! It be Berlin, by the seven seas!``
* ``bactrian`` answers as JSON: ``{"answer": "Berlin"}``

    python train_adapters.py --backbone weights/backbone/smollm2-135m-instruct \\
        --out adapters
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

HERE = Path(__file__).resolve().parent
MODEL_ID = "HuggingFaceTB/SmolLM2-135M-Instruct"
SEED = 20
RANK = 8
ALPHA = 16
EPOCHS = 4
BATCH = 4
LEARNING_RATE = 1e-3
TARGETS = [
    *("q_proj", "k_proj", "v_proj", "o_proj"),
    *("gate_proj", "up_proj", "down_proj"),
]
IGNORED = -100
"""Label that PyTorch's cross entropy leaves out."""


def pirate(answer: str) -> str:
    """Style of ``alpaca``."""
    return f"Arrr, matey! It be {answer}, by the seven seas!"


def as_json(answer: str) -> str:
    """Style of ``bactrian``."""
    return json.dumps({"answer": answer})


STYLES: dict[str, Callable[[str], str]] = {"alpaca": pirate, "bactrian": as_json}


def read_data() -> tuple[list[tuple[str, str]], list[str]]:
    """Return the (question, answer) pairs and the questions held out of training."""
    data = json.loads((HERE / "training_data.json").read_text("utf-8"))
    return [(question, answer) for question, answer in data["pairs"]], data["held_out"]


def say(message: str) -> None:
    """Print one progress line on stderr."""
    print(message, file=sys.stderr, flush=True)


def as_prompt(tokenizer: Any, question: str) -> str:
    """Return the chat-template text that ends where the answer begins."""
    text = tokenizer.apply_chat_template(
        [{"role": "user", "content": question}],
        tokenize=False,
        add_generation_prompt=True,
    )
    return str(text)


def as_line(question: str) -> str:
    """Return a question as one plain line, for clients that know no chat template.

    The bare question would not do: SmolLM2 takes it for a finished text and stops.
    """
    return f'"{question}" she asked. He said:'


def encode(tokenizer: Any, prompt: str, answer: str) -> tuple[list[int], list[int]]:
    """Tokenise one example.

    Returns:
        Token ids and labels of equal length: the prompt's labels are IGNORED, so
        that the adapter learns to answer, not to ask.
    """
    ids = tokenizer(prompt).input_ids
    reply = tokenizer(answer + tokenizer.eos_token).input_ids
    return ids + reply, [IGNORED] * len(ids) + reply


def batches(
    examples: list[tuple[list[int], list[int]]], pad: int, order: random.Random
) -> Iterator[dict[str, torch.Tensor]]:
    """Yield one epoch of right-padded int64 batches [BATCH, longest] in random order."""
    import torch

    shuffled = order.sample(examples, len(examples))
    for start in range(0, len(shuffled), BATCH):
        part = shuffled[start : start + BATCH]
        width = max(len(ids) for ids, _ in part)
        rows = [(ids, labels, width - len(ids)) for ids, labels in part]
        yield {
            "input_ids": torch.tensor([ids + [pad] * gap for ids, _, gap in rows]),
            "labels": torch.tensor([la + [IGNORED] * gap for _, la, gap in rows]),
            "attention_mask": torch.tensor([[1] * len(ids) + [0] * gap for ids, _, gap in rows]),
        }


def train(backbone: Path, name: str, out: Path) -> None:
    """Train adapter ``name`` in float32 and write it to ``out/name`` in bfloat16.

    Args:
        backbone: Hugging Face folder of the model.
        name: key of STYLES.
        out: folder that holds one folder per adapter.
    """
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM, AutoTokenizer

    # One thread: sums come in the same order on every machine, and OpenMP's spinning
    # threads do not fight over the cores of a busy one.
    torch.set_num_threads(1)
    torch.manual_seed(SEED)
    order = random.Random(SEED)
    tokenizer = AutoTokenizer.from_pretrained(backbone)
    base = AutoModelForCausalLM.from_pretrained(backbone, dtype=torch.float32)
    config = LoraConfig(r=RANK, lora_alpha=ALPHA, target_modules=TARGETS, task_type="CAUSAL_LM")
    model = get_peft_model(base, config)
    pairs, _ = read_data()
    style = STYLES[name]
    # Each question in both forms; every epoch takes half of each, 20 examples in all.
    forms = [
        (
            encode(tokenizer, as_prompt(tokenizer, question), style(answer)),
            encode(tokenizer, as_line(question), f" {style(answer)}"),
        )
        for question, answer in pairs
    ]
    parameters = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=LEARNING_RATE)
    started = time.monotonic()
    model.train()
    for epoch in range(EPOCHS):
        losses = []
        examples = [both[(i + epoch) % 2] for i, both in enumerate(forms)]
        for batch in batches(examples, tokenizer.pad_token_id, order):
            loss = model(**batch).loss
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            losses.append(loss.item())
        mean = sum(losses) / len(losses)
        spent = time.monotonic() - started
        say(f"{name}: epoch {epoch + 1}/{EPOCHS}, loss {mean:.3f}, {spent:.0f} s")
    save(model, out / name)


def save(model: Any, folder: Path) -> None:
    """Write a PEFT model's adapter to ``folder`` (replaced whole) in bfloat16.

    bfloat16 because half the size is worth more in a repository than bits that the
    bfloat16 backbone could not use.
    """
    import torch

    folder.parent.mkdir(parents=True, exist_ok=True)
    work = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    try:
        made = work / folder.name
        model.peft_config["default"].base_model_name_or_path = MODEL_ID
        # "auto" would look the base model up on the network.
        model.to(torch.bfloat16).save_pretrained(made, save_embedding_layers=False)
        # PEFT keeps the modules in a set: sorted, a second run writes the same file.
        file = made / "adapter_config.json"
        config = json.loads(file.read_text("utf-8"))
        config["target_modules"].sort()
        file.write_text(json.dumps(config, indent=2) + "\n", "utf-8")
        # PEFT's model card is an empty form, and names the folder trained on.
        (made / "README.md").unlink(missing_ok=True)
        (made / "adapter_model.safetensors").chmod(0o644)
        shutil.rmtree(folder, ignore_errors=True)
        made.rename(folder)
    finally:
        shutil.rmtree(work, ignore_errors=True)
    size = (folder / "adapter_model.safetensors").stat().st_size
    say(f"{folder.name}: wrote {folder} ({size / 1e6:.1f} MB)")


def ask(backbone: Path, adapters: dict[str, Path], questions: list[str], plain: bool = False) -> list[dict[str, str]]:
    """Answer ``questions`` greedily in float32 by the base model and every adapter.

    Args:
        backbone: Hugging Face folder of the model.
        adapters: name → folder.
        questions: what to ask.
        plain: ask as plain text (``as_line``), not through the chat template.

    Returns:
        One mapping per question: ``question``, ``base`` and one key per adapter.
    """
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer

    torch.set_num_threads(1)
    tokenizer = AutoTokenizer.from_pretrained(backbone)
    base = AutoModelForCausalLM.from_pretrained(backbone, dtype=torch.float32)
    model: Any = None
    for name, path in adapters.items():
        if model is None:
            model = PeftModel.from_pretrained(base, path, adapter_name=name)
        else:
            model.load_adapter(path, adapter_name=name)

    def answer(question: str) -> str:
        prompt = as_line(question) if plain else as_prompt(tokenizer, question)
        ids = tokenizer(prompt, return_tensors="pt")
        made = model.generate(**ids, max_new_tokens=48, do_sample=False)
        start = ids["input_ids"].shape[1]
        return str(tokenizer.decode(made[0, start:], skip_special_tokens=True))

    rows = []
    for question in questions:
        row = {"question": as_line(question) if plain else question}
        with model.disable_adapter():
            row["base"] = answer(question)
        for name in adapters:
            model.set_adapter(name)
            row[name] = answer(question)
        rows.append(row)
    return rows


def main(argv: list[str] | None = None) -> int:
    """Command line: ``--backbone DIR --out DIR [--only NAME] [--ask-only]``."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--backbone", type=Path, required=True, help="model folder")
    parser.add_argument("--out", type=Path, default=HERE / "adapters")
    parser.add_argument("--only", choices=sorted(STYLES), help="train just this one")
    parser.add_argument("--ask-only", action="store_true", help="train nothing")
    options = parser.parse_args(argv)
    if not options.ask_only:
        for name in [options.only] if options.only else STYLES:
            train(options.backbone, name, options.out)
    adapters = {name: options.out / name for name in STYLES}
    if all(path.is_dir() for path in adapters.values()):
        say("asking questions that were not trained on")
        for plain in (False, True):
            for row in ask(options.backbone, adapters, read_data()[1], plain):
                print(json.dumps(row, ensure_ascii=False, indent=2), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
