"""A vision model that answers in 30 MB: Idefics3's architecture (SmolVLM's) around the tests' tiny LLaMA.

The language half keeps the tiny LLaMA's weights, the vision half is random: what an image shows means nothing, but
another image gives another answer. Idefics3 because vLLM's code for it does without torchvision, which does not import
beside the torch of vLLM's CPU build.

    python make_vision_model.py <tiny LLaMA> <folder to make>
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, Idefics3Config, Idefics3ForConditionalGeneration
from transformers.models.idefics3.configuration_idefics3 import Idefics3VisionConfig
from transformers.models.idefics3.image_processing_pil_idefics3 import Idefics3ImageProcessorPil
from transformers.models.idefics3.processing_idefics3 import Idefics3Processor

IMAGE_SIZE, PATCH_SIZE, SCALE = 56, 14, 2
TOKENS_PER_IMAGE = (IMAGE_SIZE // PATCH_SIZE // SCALE) ** 2
TOKENS = ["<image>", "<fake_token_around_image>", "<end_of_utterance>", "<global-img>"]
CHAT_TEMPLATE = (
    "{% for message in messages %}{{ message['role'] }}: "
    "{% if message['content'] is string %}{{ message['content'] }}{% else %}"
    "{% for part in message['content'] %}{% if part['type'] == 'image' %}<image>{% else %}{{ part['text'] }}{% endif %}"
    # Jinja drops a line feed that follows a block.
    "{% endfor %}{% endif %}{{ '\\n' }}{% endfor %}{% if add_generation_prompt %}assistant:{% endif %}"
)


def make(language_model: str, out: Path) -> None:
    torch.manual_seed(0)
    tokenizer = AutoTokenizer.from_pretrained(language_model)
    tokenizer.add_special_tokens({"additional_special_tokens": TOKENS})
    llama = AutoModelForCausalLM.from_pretrained(language_model, dtype=torch.float32)
    llama.resize_token_embeddings(len(tokenizer), mean_resizing=False)
    vision = Idefics3VisionConfig(
        hidden_size=64,
        intermediate_size=128,
        # 64 / 2: vLLM's attention on the CPU takes no head smaller than 32.
        num_attention_heads=2,
        num_hidden_layers=2,
        image_size=IMAGE_SIZE,
        patch_size=PATCH_SIZE,
    )
    config = Idefics3Config(
        image_token_id=tokenizer.convert_tokens_to_ids("<image>"),
        pad_token_id=0,
        scale_factor=SCALE,
        text_config=llama.config.to_dict(),
        tie_word_embeddings=llama.config.tie_word_embeddings,
        vision_config=vision.to_dict(),
    )
    model = Idefics3ForConditionalGeneration(config).float()
    model.model.text_model.load_state_dict(llama.model.state_dict())
    model.lm_head.load_state_dict(llama.lm_head.state_dict())
    with torch.no_grad():
        # As large as a token's embedding, so that an image is heard beside the text.
        for parameter in [*model.model.vision_model.parameters(), *model.model.connector.parameters()]:
            parameter.mul_(8)
    images = Idefics3ImageProcessorPil(
        size={"longest_edge": IMAGE_SIZE}, max_image_size={"longest_edge": IMAGE_SIZE}, do_image_splitting=False
    )
    processor = Idefics3Processor(images, tokenizer, image_seq_len=TOKENS_PER_IMAGE, chat_template=CHAT_TEMPLATE)
    # Beside and then into place: a run that was interrupted leaves no half of a model.
    partial = out.with_name(f"{out.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    model.save_pretrained(partial)
    processor.save_pretrained(partial)
    partial.rename(out)


if __name__ == "__main__":
    make(sys.argv[1], Path(sys.argv[2]))
