"""Make the checkpoints and golden values beside this file with InternVL's own code; README.md says how to start it."""

from __future__ import annotations

import argparse
import importlib
import json
import subprocess
import sys
import tarfile
from io import BytesIO
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
CHAT = "internvl_chat/internvl"
TILES, SIDE, POSITIONS, KEPT = 2, 56, 256, 24
SEEDS = {"qwen2": 11, "internlm2": 12}
IMAGE_TOKENS = ["<img>", "</img>", "<IMG_CONTEXT>", "<quad>", "</quad>", "<ref>", "</ref>", "<box>", "</box>"]
QUESTION = "<image>\nDoes the image show the finding?"
TEXTS = [
    "The first image shows the same finding as the second image.",
    "  two leading blanks, three   inside, one trailing ",
    "line one\nline two\n\n\tindented",
    "你是书生·万象，英文名是InternVL。",  # noqa: RUF001
    "café naïve Ünïcödé ﬁ ½ e\u0301",
    "emoji 🧠🩻 and zero\u200bwidth",
    "<|im_start|>user\nhello<|im_end|>\n<|im_start|>assistant\n",
    "<img><IMG_CONTEXT><IMG_CONTEXT></img>\nword<box>[[1, 2]]</box>",
    "it's we'll 1234567890 3.14 (x+y)**2 != z",
    "<|im_start|>  space after a control token <tool_call> <video> </s> <s>",
    "[UNUSED_TOKEN_2] and [UNUSED_TOKEN_9]",
    "",
    " ",
    "\n",
]
CORPUS = [
    *TEXTS,
    "system\nyou are a helpful radiologist\nuser\nquestion\nassistant\nanswer",
    "Please look at the image and reason step by step to answer the question. The final answer is: Yes",
    "There is a small nodule in the upper lobe of the right lung, and no effusion. The heart is not enlarged.",
    "If the first image shows more findings than the second one, say so; otherwise state the difference.",
]


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--internvl", type=Path, required=True, help="git directory of OpenGVLab/InternVL")
    parser.add_argument("--commit", default="2410d1dbf208f0e799459aff9376e5747dbf41a2")
    parser.add_argument("--work", type=Path, required=True, help="an empty folder for the original's files")
    arguments = parser.parse_args()
    paths = [f"{CHAT}/model", f"{CHAT}/conversation.py"]
    archive = ["git", "-C", str(arguments.internvl), "archive", arguments.commit, *paths]
    packed = subprocess.run(archive, check=True, capture_output=True).stdout
    with tarfile.open(fileobj=BytesIO(packed)) as files:
        files.extractall(arguments.work, filter="data")
    (arguments.work / CHAT / "model" / "__init__.py").write_text("")  # it imports what the training script needs
    sys.path.insert(0, str(arguments.work / "internvl_chat"))
    for family, build in (("qwen2", build_qwen2_tokenizer), ("internlm2", build_internlm2_tokenizer)):
        folder = HERE / family
        folder.mkdir(exist_ok=True)
        tokenizer = build(folder, arguments.work)
        make_family(family, folder, tokenizer, arguments.commit)
        for path in folder.iterdir():
            path.chmod(0o644)
            if path.suffix == ".py":  # save_pretrained copies the tokenizer's code
                path.unlink()


def build_qwen2_tokenizer(folder: Path, work: Path) -> Any:
    from tokenizers import Regex, Tokenizer
    from tokenizers.models import BPE
    from tokenizers.normalizers import NFC
    from tokenizers.pre_tokenizers import ByteLevel, Sequence, Split
    from tokenizers.trainers import BpeTrainer
    from transformers import AddedToken, Qwen2Tokenizer
    from transformers.models.qwen2.tokenization_qwen2 import PRETOKENIZE_REGEX

    words = Tokenizer(BPE())
    words.normalizer = NFC()
    split = Split(Regex(PRETOKENIZE_REGEX), behavior="isolated")
    words.pre_tokenizer = Sequence([split, ByteLevel(add_prefix_space=False, use_regex=False)])
    alphabet = sorted(ByteLevel.alphabet())
    trainer = BpeTrainer(vocab_size=400, min_frequency=1, initial_alphabet=alphabet, show_progress=False)
    words.train_from_iterator(CORPUS, trainer)
    words.model.save(str(work))
    tokenizer = Qwen2Tokenizer(
        str(work / "vocab.json"), str(work / "merges.txt"), eos_token="<|im_end|>", pad_token="<|endoftext|>"
    )
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|video_pad|>"]
    tokenizer.add_special_tokens({"additional_special_tokens": special})
    tokenizer.add_tokens([AddedToken("<tool_call>", normalized=False)])
    tokenizer.add_tokens(IMAGE_TOKENS, special_tokens=True)
    tokenizer.save_pretrained(str(folder))
    return tokenizer


def build_internlm2_tokenizer(folder: Path, work: Path) -> Any:
    from transformers import AddedToken

    sentencepiece: Any = importlib.import_module("sentencepiece")

    (work / "corpus.txt").write_text("\n".join(CORPUS))
    unused = [f"[UNUSED_TOKEN_{number}]" for number in range(4)]
    sentencepiece.SentencePieceTrainer.train(
        input=str(work / "corpus.txt"),
        model_prefix=str(work / "sentencepiece"),
        model_type="bpe",
        vocab_size=420,
        byte_fallback=True,
        normalization_rule_name="identity",
        add_dummy_prefix=False,
        remove_extra_whitespaces=False,
        split_digits=True,
        user_defined_symbols=unused,
        minloglevel=2,
    )
    internlm2: Any = importlib.import_module("internvl.model.internlm2.tokenization_internlm2")
    pieces = sentencepiece.SentencePieceProcessor(model_file=str(work / "sentencepiece.model"))
    renamed = {pieces.piece_to_id(unused[0]): "<|im_end|>", pieces.piece_to_id(unused[1]): "<|im_start|>"}
    decoder = {0: "<unk>", 1: "<s>", 2: "</s>"} | renamed
    tokenizer = internlm2.InternLM2Tokenizer(
        str(work / "sentencepiece.model"),
        added_tokens_decoder={
            number: AddedToken(text, normalized=False, special=True) for number, text in decoder.items()
        },
        additional_special_tokens=["<|im_start|>", "<|im_end|>"],
    )
    tokenizer.add_tokens(IMAGE_TOKENS, special_tokens=True)
    tokenizer.save_pretrained(str(folder))
    return tokenizer


def make_family(family: str, folder: Path, tokenizer: Any, commit: str) -> None:
    import torch
    import transformers
    from safetensors.torch import save_file

    chat: Any = importlib.import_module("internvl.model.internvl_chat")
    model = chat.InternVLChatModel(describe(family, chat, len(tokenizer)), use_flash_attn=False).eval()
    draw_weights(model, SEEDS[family])
    model.img_context_token_id = tokenizer.convert_tokens_to_ids("<IMG_CONTEXT>")
    query = render_query(QUESTION)
    image = "<img>" + "<IMG_CONTEXT>" * model.num_image_token * TILES + "</img>"
    ids = tokenizer(query.replace("<image>", image))["input_ids"]  # as chat() does
    values = {"logits": run(model, ids)[-KEPT:].contiguous()}
    if family == "internlm2":  # beyond max_position_embeddings, where the scaling of the rotation begins
        values["long_logits"] = run(model, lengthen(ids))[-4:].contiguous()
    save_file(values, folder / "expected.safetensors")
    model.bfloat16()
    model.config.torch_dtype = torch.bfloat16
    model.config.auto_map = {"AutoModel": "modeling_internvl_chat.InternVLChatModel"}
    eos = tokenizer.convert_tokens_to_ids("<|im_end|>")
    generation: Any = transformers.GenerationConfig
    model.generation_config = generation(eos_token_id=eos)
    model.save_pretrained(folder, max_shard_size="60KB")
    known = {
        "origin": {"repository": "https://github.com/OpenGVLab/InternVL", "commit": commit},
        "question": QUESTION,
        "query": query,
        "input_ids": ids,
        "texts": [{"text": text, "ids": tokenizer(text, add_special_tokens=False)["input_ids"]} for text in TEXTS],
        "vocabulary": len(tokenizer),
        "added": tokenizer.get_added_vocab(),
    }
    (folder / "expected.json").write_text(json.dumps(known, ensure_ascii=False, indent=1) + "\n")


def describe(family: str, chat: Any, vocabulary: int) -> Any:
    sizes = {
        "vocab_size": vocabulary,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": POSITIONS,
        "rope_scaling": {"type": "dynamic", "factor": 2.0},
        "tie_word_embeddings": False,
    }
    text = {
        "qwen2": {
            "architectures": ["Qwen2ForCausalLM"],
            "model_type": "qwen2",
            "rope_theta": 1e6,
            "rms_norm_eps": 1e-6,
        },
        "internlm2": {
            "architectures": ["InternLM2ForCausalLM"],
            "model_type": "internlm2",
            "rope_theta": 1e6,
            "rms_norm_eps": 1e-5,
            "bias": False,
            "attn_implementation": "eager",
        },
    }[family]
    return chat.InternVLChatConfig(
        vision_config={
            "architectures": ["InternVisionModel"],
            "hidden_size": 32,
            "intermediate_size": 48,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "image_size": SIDE,
            "patch_size": 14,
            "qkv_bias": True,
            "qk_normalization": False,
            "norm_type": "layer_norm",
            "use_flash_attn": False,
        },
        llm_config=sizes | text,
        force_image_size=SIDE,
        ps_version="v2",
        template="internvl2_5",
        dynamic_image_size=True,
        use_thumbnail=True,
        max_dynamic_patch=12,
        architectures=["InternVLChatModel"],
    )


def draw_weights(model: Any, seed: int) -> None:
    import torch

    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, weight in sorted(model.named_parameters()):
            weight.normal_(0.0, 0.25 if weight.ndim > 1 else 0.1, generator=generator)
            if weight.ndim == 1 and not name.endswith(".bias"):
                weight.add_(1.0)
            weight.copy_(weight.bfloat16().float())  # what is stored and what is run are the same numbers


def render_query(question: str) -> str:
    conversation: Any = importlib.import_module("internvl.conversation")
    template = conversation.get_conv_template("internvl2_5")
    template.append_message(template.roles[0], question)
    template.append_message(template.roles[1], None)
    return str(template.get_prompt())


def lengthen(ids: list[int]) -> list[int]:
    return ids + [100 + position * 7 % 200 for position in range(2 * POSITIONS)]


def run(model: Any, ids: list[int]) -> Any:
    import torch

    count = TILES * 3 * SIDE * SIDE
    pixels = ((torch.arange(count) * 7919 % 1000).float() / 500 - 1).reshape(TILES, 3, SIDE, SIDE)
    with torch.no_grad():
        answer = model(
            pixel_values=pixels,
            input_ids=torch.tensor([ids]),
            attention_mask=torch.ones(1, len(ids), dtype=torch.long),
            position_ids=torch.arange(len(ids)).unsqueeze(0),
            image_flags=torch.ones(TILES, 1, dtype=torch.long),
            use_cache=False,
            return_dict=True,
        )
    return answer.logits[0].float()


if __name__ == "__main__":
    main()
