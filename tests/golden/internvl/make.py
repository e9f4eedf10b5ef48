"""Make the golden values beside this file by running InternVL's own code; README.md says how to start it."""

from __future__ import annotations

import argparse
import ast
import hashlib
import importlib
import json
import os
import random
import re
import subprocess
import sys
import types
from copy import deepcopy
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
CHAT = "internvl_chat/internvl"
TILE, PATCH, DOWNSAMPLE = 56, 14, 0.5
SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<s>", "<img>", "</img>", "<IMG_CONTEXT>"]


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--internvl", type=Path, required=True, help="git directory of OpenGVLab/InternVL")
    parser.add_argument("--commit", default="2410d1dbf208f0e799459aff9376e5747dbf41a2")
    parser.add_argument("--chiron", type=Path, required=True, help="evaluation data of manglu097/Chiron-o1")
    parser.add_argument("--work", type=Path, required=True, help="an empty folder for the original's files")
    arguments = parser.parse_args()
    check_out(arguments.internvl, arguments.commit, arguments.work)
    origin = {"repository": "https://github.com/OpenGVLab/InternVL", "commit": arguments.commit}
    original = Original(arguments.work)
    draw_images()
    train_tokenizer()
    for name, values in {
        "grids": golden_grids(original),
        "tiles": golden_tiles(original),
        "samples": golden_samples(original),
        "prompts": golden_prompts(original),
        "chiron_sizes": golden_chiron_sizes(original, arguments.chiron),
    }.items():
        text = json.dumps({"origin": origin, **values}, ensure_ascii=False, indent=1)
        (HERE / f"{name}.json").write_text(compact(text) + "\n")


def compact(text: str) -> str:
    """Put lists of numbers on one line, so that the files can be read."""
    return re.sub(r"\[[-\d,\s]+\]", lambda numbers: re.sub(r"\s+", "", numbers.group()), text)


def check_out(git: Path, commit: str, work: Path) -> None:
    for path in (
        "conversation.py",
        "train/constants.py",
        "train/dataset.py",
        "train/internvl_chat_finetune.py",
        "model/internvl_chat/modeling_internvl_chat.py",
    ):
        target = work / "internvl" / path
        target.parent.mkdir(parents=True, exist_ok=True)
        shown = subprocess.run(["git", "-C", git, "show", f"{commit}:{CHAT}/{path}"], check=True, capture_output=True)
        target.write_bytes(shown.stdout)
    (work / "internvl/__init__.py").touch()
    (work / "internvl/train/__init__.py").touch()


class Original:
    """The original's functions; what needs a GPU, a cluster or a video reader to import is left out."""

    def __init__(self, work: Path) -> None:
        import numpy as np
        import torch
        from PIL import Image

        importlib.import_module("transformers.trainer_pt_utils")  # looks for the modules that are emptied next
        for name in ("cv2", "imageio", "decord"):
            module: Any = types.ModuleType(name)
            module.VideoReader = None
            sys.modules[name] = module
        sys.path.insert(0, str(work))
        conversation = importlib.import_module("internvl.conversation")
        constants = importlib.import_module("internvl.train.constants")
        dataset = importlib.import_module("internvl.train.dataset")

        self.dataset = dataset
        names: dict[str, Any] = {**vars(constants), **vars(dataset)}
        names |= {"Dataset": object, "json": json, "os": os, "deepcopy": deepcopy, "np": np, "torch": torch}
        names |= {"Image": Image, "random": random, "Dict": dict}
        finetune = (work / "internvl/train/internvl_chat_finetune.py").read_text()
        self.reader = define(finetune, "LazySupervisedDataset", names)
        modeling = (work / "internvl/model/internvl_chat/modeling_internvl_chat.py").read_text()
        self.chat = define(modeling, "chat", {"torch": torch, "get_conv_template": conversation.get_conv_template})
        self.system_message = conversation.get_conv_template("internvl2_5").system_message

    def read(self, item: dict[str, Any], tokenizer: Any, *, max_length: int, max_tiles: int) -> Any:
        """Do for one sample what the original's __getitem__ does, but let its errors out."""
        tokenizer.model_max_length = max_length
        reader = self.reader.__new__(self.reader)
        vars(reader).update(
            template_name="internvl2_5", tokenizer=tokenizer, tcs_loader=None, ds_name="golden",
            num_image_token=int((TILE // PATCH) ** 2 * DOWNSAMPLE**2), image_size=TILE, is_train=False,
            pad2square=False, group_by_length=False, use_packed_ds=True, dynamic_image_size=True,
            use_thumbnail=True, min_dynamic_patch=1, max_dynamic_patch=max_tiles, normalize_type="imagenet",
            root=str(HERE / "images"),
        )  # fmt: skip
        item = deepcopy(item)
        if not item.get("image"):
            return reader.pure_text_get_item(item)
        if isinstance(item["image"], list):
            return reader.multi_modal_multi_image_get_item(item)
        return reader.multi_modal_get_item(item)


def define(source: str, name: str, names: dict[str, Any]) -> Any:
    """Run the original's definition of one class or function, with everything it names."""
    tree = ast.parse(source)
    found = next(
        node for node in ast.walk(tree) if isinstance(node, ast.ClassDef | ast.FunctionDef) and node.name == name
    )
    exec(compile(ast.Module([found], []), name, "exec"), names)  # noqa: S102
    return names[name]


def draw_images() -> None:
    """Draw small images of several modes and shapes, with edges and gradients."""
    from PIL import Image, ImageDraw

    def picture(width: int, height: int) -> Image.Image:
        image = Image.new("RGB", (width, height))
        draw = ImageDraw.Draw(image)
        for column in range(width):
            draw.line(
                [(column, 0), (column, height)],
                fill=(255 * column // width, 90, 255 - 255 * column // width),
            )
        draw.ellipse([width // 5, height // 5, 4 * width // 5, 4 * height // 5], outline="white", width=5)
        draw.rectangle([width // 2, height // 3, width - 9, height // 2], fill=(10, 200, 30))
        return image

    folder = HERE / "images"
    picture(200, 100).save(folder / "wide.png")
    picture(90, 271).save(folder / "tall.png")
    picture(40, 40).save(folder / "small.png")
    picture(700, 500).convert("L").save(folder / "grey.png")
    picture(300, 300).quantize(16).save(folder / "palette.png")
    transparent = picture(123, 77)
    transparent.putalpha(transparent.convert("L"))
    transparent.save(folder / "transparent.png")
    picture(333, 240).save(folder / "photo.jpg", quality=90)
    picture(150, 200).convert("CMYK").save(folder / "print.jpg", quality=90)
    picture(64, 48).convert("L").convert("I").point(lambda value: value * 257).convert("I;16").save(folder / "deep.png")


def train_tokenizer() -> None:
    """Train a small byte-level BPE tokenizer of Qwen's make on a few sentences."""
    from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

    pattern = (
        r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"
        r"|\s+(?!\S)|\s+"
    )
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(pattern), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        special_tokens=SPECIAL,
        show_progress=False,
    )
    words = ["system\n", "user\n", "assistant\n", "\n\n", " the image shows", " answer: ", "what is in the image?"]
    tokenizer.train_from_iterator(words * 10, trainer)
    tokenizer.save(str(HERE / "tokenizer.json"))


def load_tokenizer(*, bos: bool) -> Any:
    from tokenizers.processors import TemplateProcessing
    from transformers import PreTrainedTokenizerFast

    tokenizer: Any = PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_file=str(HERE / "tokenizer.json"), pad_token="<|endoftext|>", bos_token="<s>"
    )
    tokenizer.add_bos_token = bos
    if bos:
        tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
            single="<s> $A", special_tokens=[("<s>", tokenizer.bos_token_id)]
        )
    return tokenizer


def golden_grids(original: Original) -> dict[str, Any]:
    rng = random.Random(0)  # noqa: S311
    sizes = [(rng.randint(1, 3000), rng.randint(1, 3000)) for _ in range(60)]
    sizes += [(448 * a // 2, 448 * b // 2) for a in range(1, 6) for b in range(1, 6)]
    sizes += [(300, 200), (3000, 2000), (450, 200), (1200, 320), (5, 4), (1, 500), (500, 1), (317, 448), (318, 448)]
    return {
        "sizes": sizes,
        "grids": {
            str(most): [grid(original, *size, most) for size in sizes] for most in (1, 2, 3, 4, 5, 6, 8, 12, 24, 40)
        },
        "digest": {
            "about": "SHA-256 of the lines 'width height max columns rows' for width and height in range(16, 1500, 17)",
            "max_tiles": [6, 12],
            "sha256": digest_grids(original),
        },
    }


def grid(original: Original, width: int, height: int, most: int) -> list[int]:
    pairs = {(i, j) for n in range(1, most + 1) for i in range(1, n + 1) for j in range(1, n + 1) if i * j <= most}
    ratios = sorted(pairs, key=lambda pair: pair[0] * pair[1])
    return list(original.dataset.find_closest_aspect_ratio(width / height, ratios, width, height, 448))


def digest_grids(original: Original) -> str:
    digest = hashlib.sha256()
    for most in (6, 12):
        for width in range(16, 1500, 17):
            for height in range(16, 1500, 17):
                columns, rows = grid(original, width, height, most)
                digest.update(f"{width} {height} {most} {columns} {rows}\n".encode())
    return digest.hexdigest()


def golden_tiles(original: Original) -> dict[str, Any]:
    from PIL import Image

    cases = []
    for path in sorted((HERE / "images").iterdir()):
        for tile_size, max_tiles in ((56, 1), (56, 6), (56, 12), (448, 6)):
            image = Image.open(path).convert("RGB")
            tiles = original.dataset.dynamic_preprocess(
                image, max_num=max_tiles, image_size=tile_size, use_thumbnail=True
            )
            transform = original.dataset.build_transform(is_train=False, input_size=tile_size)
            cases.append(
                {
                    "image": path.name,
                    "size": image.size,
                    "tile_size": tile_size,
                    "max_tiles": max_tiles,
                    "tiles": [sha256(tile.tobytes()) for tile in tiles],
                    "normalised": [sha256(transform(tile).numpy().tobytes()) for tile in tiles],
                }
            )
    tile = Image.open(HERE / "images/photo.jpg").convert("RGB")
    degraded = {
        str(quality): sha256(original.dataset.jpeg_degrade_functions[quality](tile).tobytes())
        for quality in (75, 83, 100)
    }
    return {"cases": cases, "degraded": {"image": "photo.jpg", "by_quality": degraded}}


def golden_chiron_sizes(original: Original, folder: Path) -> dict[str, Any]:
    """Keep the sizes of the evaluation images, not the images, and how the original cuts them."""
    from PIL import Image

    samples = []
    for item in json.loads((folder / "eval_data.json").read_bytes()):
        names = item["img_name"] if isinstance(item["img_name"], list) else [item["img_name"]]
        images = [Image.open(folder / name).convert("RGB") for name in names]

        def count(most: int, images: list[Image.Image] = images) -> list[int]:
            cut = original.dataset.dynamic_preprocess
            return [len(cut(image, max_num=most, image_size=448, use_thumbnail=True)) for image in images]

        samples.append(
            {
                "id": item["id"],
                "sizes": [image.size for image in images],
                "training": count(max(1, 6 // len(images))),
                "evaluation": count(12),
            }
        )
    return {
        "images": {"repository": "https://github.com/manglu097/Chiron-o1", "commit": "fde348e"},
        "about": "tiles with thumbnails: training 6 a sample, evaluation 12 an image",
        "samples": samples,
        "training": sum(sum(sample["training"]) for sample in samples),
        "evaluation": sum(sum(sample["evaluation"]) for sample in samples),
    }


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def say(sender: str, value: str) -> dict[str, str]:
    return {"from": sender, "value": value}


ASK, TELL = say("human", "what is in the image?"), say("gpt", " the image shows\n\na wall.")
SAMPLES: dict[str, dict[str, Any]] = {
    "text only": {"item": {"conversations": [say("human", "Hello?"), say("gpt", "Hello!")]}},
    "empty list of images": {"item": {"image": [], "conversations": [say("human", "Hello?"), TELL]}},
    "empty image name": {"item": {"image": "", "conversations": [say("human", "Hello?"), TELL]}},
    "empty texts": {"item": {"conversations": [say("human", ""), say("gpt", "")]}},
    "answer begins with newlines": {"item": {"conversations": [say("human", "Go\n\n"), say("gpt", "\n\n one\n")]}},
    "answer of blanks": {"item": {"conversations": [say("human", " "), say("gpt", "  \n ")]}},
    "chinese and accents": {"item": {"conversations": [say("human", "图中是什么?"), say("gpt", "e\u0301tage 墙!")]}},
    "text only with system turn": {
        "item": {"conversations": [say("system", "Be brief."), say("human", "Hi"), say("gpt", "Hi")]}
    },
    "system turn empty": {"item": {"conversations": [say("system", ""), say("human", "Hi"), say("gpt", "Hi")]}},
    "several turns": {
        "item": {"conversations": [say("human", "1?"), say("gpt", "one"), say("human", "2?"), say("gpt", "two")]}
    },
    "two human turns in a row": {
        "item": {"conversations": [say("human", "1?"), say("human", "2?"), say("gpt", "two"), say("gpt", "!")]}
    },
    "answer first": {"item": {"conversations": [say("gpt", "Ask me."), say("human", "1?"), say("gpt", "one")]}},
    "human turn last": {"item": {"conversations": [say("human", "1?"), say("gpt", "one"), say("human", "2?")]}},
    "one image without placeholder": {"item": {"image": "wide.png", "conversations": [ASK, TELL]}},
    "one image with placeholder": {
        "item": {"image": "tall.png", "conversations": [say("human", "see <image>: what?"), TELL]}
    },
    "one image, several turns": {
        "item": {"image": "photo.jpg", "conversations": [ASK, TELL, say("human", "Why?"), say("gpt", "So.")]}
    },
    "one image with a budget of one": {
        "item": {"image": "wide.png", "conversations": [ASK, TELL]},
        "max_tiles": 1,
    },
    "one image with a budget of twelve": {
        "item": {"image": "grey.png", "conversations": [ASK, TELL]},
        "max_tiles": 12,
    },
    "several images": {
        "item": {
            "image": ["wide.png", "tall.png", "small.png"],
            "conversations": [say("human", "A <image> B <image>\n<image>\nWhich?"), TELL],
        }
    },
    "several images in several turns": {
        "item": {
            "image": ["palette.png", "transparent.png"],
            "conversations": [say("human", "<image>\nWhat?"), TELL, say("human", "And <image>?"), TELL],
        }
    },
    "more images than tiles": {
        "item": {
            "image": ["wide.png", "tall.png", "small.png", "grey.png"],
            "conversations": [say("human", "<image><image><image><image>"), TELL],
        },
        "max_tiles": 3,
    },
    "list of one image": {"item": {"image": ["print.jpg"], "conversations": [say("human", "<image>\nWhat?"), TELL]}},
    "list of one image with system turn": {
        "item": {
            "image": ["deep.png"],
            "conversations": [say("system", "Be brief."), say("human", "<image>\nWhat?"), TELL],
        }
    },
    "placeholder in an answer": {
        "item": {
            "image": ["small.png"],
            "conversations": [say("human", "<image>\nWhat?"), say("gpt", "an <image>, I say")],
        }
    },
    "bos before the first turn": {"item": {"image": "wide.png", "conversations": [ASK, TELL]}, "bos": True},
    "exactly the length": {
        "item": {"conversations": [say("human", "a"), say("gpt", "b" * 10)]},
        "max_length": 182,
    },
    "too long, text only": {
        "item": {"conversations": [say("human", "a"), say("gpt", "b" * 400)]},
        "max_length": 300,
    },
    "too long, image kept": {
        "item": {"image": "wide.png", "conversations": [ASK, say("gpt", "abc " * 400)]},
        "max_length": 300,
    },
    "too long, image cut": {
        "item": {"image": ["wide.png"], "conversations": [say("human", "abc " * 400 + "<image>"), TELL]},
        "max_length": 300,
    },
    "too long, no label left": {
        "item": {"conversations": [say("human", "abc " * 400), TELL]},
        "max_length": 300,
    },
    "very long": {
        "item": {
            "image": "grey.png",
            "conversations": [ASK, say("gpt", "a wall. " * 300), say("human", "And?"), say("gpt", "no. " * 300)],
        }
    },
    "two placeholders, one image name": {
        "item": {"image": "small.png", "conversations": [say("human", "<image> and <image>"), TELL]}
    },
    "placeholder in the second human turn, one image name": {
        "item": {"image": "small.png", "conversations": [say("human", "Look."), TELL, say("human", "<image>"), TELL]}
    },
    "system turn, one image name with placeholder": {
        "item": {
            "image": "small.png",
            "conversations": [say("system", "Be brief."), say("human", "<image>\nWhat?"), TELL],
        }
    },
    "system turn, one image name without placeholder": {
        "item": {"image": "small.png", "conversations": [say("system", "Be brief."), ASK, TELL]}
    },
    "list of one image without placeholder": {"item": {"image": ["small.png"], "conversations": [ASK, TELL]}},
    "fewer placeholders than images": {
        "item": {"image": ["small.png", "wide.png"], "conversations": [say("human", "<image>"), TELL]}
    },
    "more placeholders than images": {
        "item": {"image": ["small.png", "wide.png"], "conversations": [say("human", "<image>" * 3), TELL]}
    },
    "placeholder without image": {"item": {"conversations": [say("human", "<image>\nWhat?"), TELL]}},
    "system turn in the middle": {
        "item": {"conversations": [say("human", "Hi"), say("system", "Be brief."), say("gpt", "Hi")]}
    },
}


def golden_samples(original: Original) -> dict[str, Any]:
    cases = {}
    for name, given in SAMPLES.items():
        case = {"max_tiles": 6, "max_length": 8192, "bos": False, **given}
        tokenizer = load_tokenizer(bos=case["bos"])
        try:
            read = original.read(case["item"], tokenizer, max_length=case["max_length"], max_tiles=case["max_tiles"])
        except Exception as error:  # noqa: BLE001  what the original does is recorded, whatever it is
            result: dict[str, Any] = {"error": type(error).__name__}
        else:
            tiles = int(read["image_flags"].sum())
            result = {
                "input_ids": read["input_ids"].tolist(),
                "labels": read["labels"].tolist(),
                "tiles": tiles,
                "pixels": sha256(read["pixel_values"].numpy().tobytes()) if tiles else None,
            }
        cases[name] = {**case, "original": result}
    return {"geometry": {"tile_size": TILE, "patch_size": PATCH, "downsample": DOWNSAMPLE}, "cases": cases}


PROMPTS: dict[str, dict[str, Any]] = {
    "text only": {"history": [], "question": "Hello?", "tiles": []},
    "one image without placeholder": {"history": [], "question": "what is in the image?", "tiles": [3]},
    "one image with placeholder": {"history": [], "question": "see <image>: what?", "tiles": [7]},
    "several images": {"history": [], "question": "A <image> B <image>\n<image>\nWhich?", "tiles": [1, 3, 2]},
    "several turns": {"history": [["<image>\nWhat?", "\n\na wall."]], "question": "And <image>?", "tiles": [1, 2]},
    "own system message": {"history": [], "question": "Hello?", "tiles": [], "system": "Be brief."},
    "bos": {"history": [], "question": "Hello?", "tiles": [1], "bos": True},
}


def golden_prompts(original: Original) -> dict[str, Any]:
    import torch

    class Caught(Exception):
        pass

    cases = {}
    for name, given in PROMPTS.items():
        case = {"system": None, "bos": False, **given}

        def generate(*, input_ids: Any, **_: Any) -> None:
            raise Caught(input_ids[0].tolist())

        model = types.SimpleNamespace(
            template="internvl2_5",
            system_message=case["system"] or original.system_message,
            num_image_token=4,
            language_model=types.SimpleNamespace(device="cpu"),
            generate=generate,
        )
        pixels = torch.zeros(sum(case["tiles"])) if case["tiles"] else None
        try:
            original.chat(
                model, load_tokenizer(bos=case["bos"]), pixels, case["question"], {},
                history=[tuple(turn) for turn in case["history"]] or None, num_patches_list=case["tiles"],
            )  # fmt: skip
        except Caught as caught:
            cases[name] = {**case, "input_ids": caught.args[0]}
    return {"tokens_per_tile": 4, "system_message": original.system_message, "cases": cases}


if __name__ == "__main__":
    main()
