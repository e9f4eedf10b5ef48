"""A tiny InternVL with random weights, on disk in the native format of the published `-hf` checkpoints."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tandem.errors import BadConfiguration, Fault
from tandem.model.prompt import INTERNVL2_5
from tandem.model.tiles import IMAGENET_MEAN, IMAGENET_STD

if TYPE_CHECKING:
    import torch
    from tokenizers import Tokenizer

PATCH_SIZE = 14
HEADS = 4

END_OF_TEXT = "<|endoftext|>"
IMAGE_TOKENS = {
    "start_image_token": INTERNVL2_5.image_start,
    "end_image_token": INTERNVL2_5.image_end,
    "context_image_token": INTERNVL2_5.image_context,
    "video_token": "<video>",
}
SPECIAL_TOKENS = (END_OF_TEXT, INTERNVL2_5.turn_start, INTERNVL2_5.turn_end, *IMAGE_TOKENS.values())

SPLIT_WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
"""How Qwen2's tokenizer cuts text into words before byte pairs are merged: every digit stands alone."""

CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n"
    "{% if message['content'] is string %}{{ message['content'] }}{% else %}"
    "{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}<IMG_CONTEXT>\n{% elif part['type'] == 'text' %}{{ part['text'] }}{% endif %}"
    "{% endfor %}{% endif %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)

SMALL_CORPUS = (
    f"system\n{INTERNVL2_5.system_message}\n",
    "user\n",
    "assistant\n",
    "Please look at the image and reason step by step to answer the question.",
    "Let's think about how to solve this problem clearly and reasonably step by step.\n### Step 1:\n",
    "### The final answer is: Yes\n",
    "### The final answer is: No\n",
    "The first image shows the same finding as the second image.",
)
"""Enough for the words of prompts and answers to become tokens; everything else is spelled in bytes."""


def make_tiny_model(
    folder: Path | str,
    *,
    seed: int,
    text_size: int = 64,
    vision_size: int = 32,
    layers: int = 2,
    tile_size: int = 56,
    std: float = 0.1,
    corpus: Iterable[str] = SMALL_CORPUS,
    vocabulary: int = 512,
) -> None:
    """Write a loadable InternVL with a Qwen2 text model into `folder`: the same bytes for the same arguments.

    text_size and vision_size are hidden sizes (multiples of 8), layers is the depth of each of the two towers,
    tile_size is in pixels (a multiple of 28: a tile becomes (tile_size / 28)^2 tokens). std is the standard
    deviation of all matrices; at 0.02, the size of real models, a frozen output layer is too small to learn
    against. vocabulary is the most tokens that are made from the corpus, not counting the special ones.
    Raises BadConfiguration for sizes that do not fit together.
    """
    _check_sizes(text_size=text_size, vision_size=vision_size, tile_size=tile_size, vocabulary=vocabulary)
    import torch
    import transformers
    from transformers import AddedToken, InternVLForConditionalGeneration, Qwen2Tokenizer

    generation: Any = transformers.GenerationConfig
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    words = _train_tokenizer(corpus, vocabulary=vocabulary)
    state = json.loads(words.to_str())["model"]
    merges: Any = [tuple(pair) for pair in state["merges"]]
    tokenizer = Qwen2Tokenizer(
        vocab=state["vocab"],
        merges=merges,
        eos_token=INTERNVL2_5.turn_end,
        pad_token=END_OF_TEXT,
        extra_special_tokens=IMAGE_TOKENS,
        model_max_length=32768,
        padding_side="left",
        clean_up_tokenization_spaces=False,
    )
    tokenizer.add_tokens([AddedToken(token, special=True, normalized=False) for token in SPECIAL_TOKENS])
    tokenizer.chat_template = CHAT_TEMPLATE
    tokenizer.save_pretrained(folder)
    config = _describe_model(
        tokenizer, text_size=text_size, vision_size=vision_size, layers=layers, tile_size=tile_size, std=std
    )
    with torch.random.fork_rng(devices=[]):  # building a model draws from the process's own generator
        model = InternVLForConditionalGeneration(config)
    _draw_weights(model, seed=seed, std=std)
    model.generation_config = generation(
        do_sample=False,
        eos_token_id=tokenizer.convert_tokens_to_ids(INTERNVL2_5.turn_end),
        pad_token_id=tokenizer.convert_tokens_to_ids(END_OF_TEXT),
    )
    model.save_pretrained(folder)
    _write_json(folder / "preprocessor_config.json", _describe_images(tile_size))
    processor = {"processor_class": "InternVLProcessor", "image_seq_length": config.image_seq_length}
    _write_json(folder / "processor_config.json", processor)


def _check_sizes(*, text_size: int, vision_size: int, tile_size: int, vocabulary: int) -> None:
    wrong = [
        (name, size, f"is not a positive multiple of {unit}")
        for name, size, unit in (
            ("text_size", text_size, 2 * HEADS),
            ("vision_size", vision_size, 2 * HEADS),
            ("tile_size", tile_size, 2 * PATCH_SIZE),
        )
        if size <= 0 or size % unit
    ]
    if vocabulary < 256:
        wrong.append(("vocabulary", vocabulary, "is less than the 256 bytes that every text is made of"))
    if wrong:
        raise BadConfiguration(
            [
                Fault(where=f"tiny model, {name}", what=f"{size} {fault}", remedy="Choose another size")
                for name, size, fault in wrong
            ]
        )


def _train_tokenizer(corpus: Iterable[str], *, vocabulary: int) -> Tokenizer:
    from tokenizers import Regex, Tokenizer
    from tokenizers.models import BPE
    from tokenizers.pre_tokenizers import ByteLevel, Sequence, Split
    from tokenizers.trainers import BpeTrainer

    tokenizer = Tokenizer(BPE())
    tokenizer.pre_tokenizer = Sequence(
        [Split(Regex(SPLIT_WORDS), behavior="isolated"), ByteLevel(add_prefix_space=False, use_regex=False)]
    )
    trainer = BpeTrainer(
        vocab_size=vocabulary,
        min_frequency=1,
        initial_alphabet=sorted(ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(corpus, trainer)
    return tokenizer


def _describe_model(
    tokenizer: Any, *, text_size: int, vision_size: int, layers: int, tile_size: int, std: float
) -> Any:
    from transformers import InternVLConfig

    end = tokenizer.convert_tokens_to_ids(INTERNVL2_5.turn_end)
    return InternVLConfig(
        architectures=["InternVLForConditionalGeneration"],
        text_config={
            "model_type": "qwen2",
            "architectures": ["Qwen2ForCausalLM"],
            "vocab_size": len(tokenizer),
            "hidden_size": text_size,
            "intermediate_size": 2 * text_size,
            "num_hidden_layers": layers,
            "num_attention_heads": HEADS,
            "num_key_value_heads": HEADS // 2,
            "max_position_embeddings": 32768,
            "initializer_range": std,
            "tie_word_embeddings": False,
            "bos_token_id": None,
            "eos_token_id": end,
            "dtype": "float32",
        },
        vision_config={
            "hidden_size": vision_size,
            "intermediate_size": 4 * vision_size,
            "num_hidden_layers": layers,
            "num_attention_heads": HEADS,
            "attention_bias": True,
            "image_size": [tile_size, tile_size],
            "patch_size": [PATCH_SIZE, PATCH_SIZE],
            "initializer_range": std,
            "dtype": "float32",
        },
        image_token_id=tokenizer.convert_tokens_to_ids(IMAGE_TOKENS["context_image_token"]),
        image_seq_length=(tile_size // (2 * PATCH_SIZE)) ** 2,
        downsample_ratio=0.5,
        tie_word_embeddings=False,
        dtype="float32",
    )


def _draw_weights(model: torch.nn.Module, *, seed: int, std: float) -> None:
    """Draw all matrices and embeddings in the order of their names, so that nothing but the seed decides."""
    import torch

    generator = torch.Generator().manual_seed(seed)
    kept = ("lambda_1", "lambda_2")
    with torch.no_grad():
        for name, weight in sorted(model.named_parameters()):
            if weight.ndim > 1:
                weight.normal_(0.0, std, generator=generator)
            elif name.endswith(".bias"):
                weight.zero_()
            elif not name.endswith(kept):
                weight.fill_(1.0)


def _describe_images(tile_size: int) -> dict[str, object]:
    return {
        "image_processor_type": "GotOcr2ImageProcessor",
        "processor_class": "InternVLProcessor",
        "do_convert_rgb": True,
        "do_resize": True,
        "size": {"height": tile_size, "width": tile_size},
        "resample": 3,
        "crop_to_patches": False,
        "min_patches": 1,
        "max_patches": 12,
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": list(IMAGENET_MEAN),
        "image_std": list(IMAGENET_STD),
    }


def _write_json(path: Path, value: object) -> None:
    path.write_text(json.dumps(value, indent=2, sort_keys=True) + "\n", encoding="utf-8")
