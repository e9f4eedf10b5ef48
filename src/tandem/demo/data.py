"""The demo's files: what trains the base, what trains and validates the adapter, and the held-out questions."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from pathlib import Path

from tandem.demo.digits import draw_digits
from tandem.demo.questions import TAUGHT_TO_ADAPTER, TAUGHT_TO_BASE, Question, ask_all, ask_cases
from tandem.spec import FINAL_ANSWER

BASE_META = "base.meta.json"
TRAIN_META = "train.meta.json"
VALIDATION_META = "validation.meta.json"
HELDOUT = "heldout.json"

ADAPTER_QUESTIONS = 7680
"""One pass of the shipped job: 240 steps of 32. Fewer, asked again, make the adapter forget how to read digits."""


def write_data(folder: Path, *, seed: int) -> None:
    """Write images, meta files with their JSON lines, and the evaluation file into `folder`, by `seed` alone."""
    pictures = draw_digits(folder, seed=seed)
    base = ask_all(pictures["base"], kinds=TAUGHT_TO_BASE, rng=_draw_for("base", seed))
    _write_training(folder, BASE_META, [(question, question.plain) for question in base])
    once = dict.fromkeys(TAUGHT_TO_ADAPTER, 1)
    taught = ask_all([*pictures["base"], *pictures["train"]], kinds=TAUGHT_TO_ADAPTER, rng=_draw_for("train", seed))
    checked = ask_all(pictures["validation"], kinds=once, rng=_draw_for("validation", seed))
    for name, questions in ((TRAIN_META, taught[:ADAPTER_QUESTIONS]), (VALIDATION_META, checked)):
        _write_training(folder, name, [(question, _reason_first(question)) for question in questions])
    _write_heldout(folder / HELDOUT, ask_cases(pictures["heldout"], rng=_draw_for("heldout", seed)))


def _draw_for(split: str, seed: int) -> random.Random:
    """Each set draws for itself, so that a change of one leaves the others as they were."""
    return random.Random(f"{seed} {split}")  # noqa: S311


def _reason_first(question: Question) -> str:
    return f"{question.reasoning}\n{FINAL_ANSWER.format(answer=question.answer)}"


def _write_training(folder: Path, meta_name: str, samples: Sequence[tuple[Question, str]]) -> None:
    """Write a meta file and its JSON lines as InternVL's trainer reads them."""
    name = meta_name.removesuffix(".meta.json")
    lines = [
        {
            "id": f"{name}-{number:05}",
            "image": [picture.name for picture in question.pictures],
            "conversations": [{"from": "human", "value": question.text}, {"from": "gpt", "value": text}],
        }
        for number, (question, text) in enumerate(samples)
    ]
    annotation = f"{name}.jsonl"
    (folder / annotation).write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    meta = {f"digits-{name}": {"root": ".", "annotation": annotation, "data_augment": False, "repeat_time": 1}}
    (folder / meta_name).write_text(json.dumps(meta, indent=2) + "\n", encoding="utf-8")


def _write_heldout(path: Path, cases: Sequence[Sequence[Question]]) -> None:
    samples = [
        {
            "id": f"case-{number:03}-{question.kind}",
            "case_id": f"case-{number:03}",
            "img_name": [picture.name for picture in question.pictures],
            "question": question.text,
            "reasoning": question.reasoning,
            "answer": question.answer,
            "answer_type": question.answer_type,
        }
        for number, case in enumerate(cases)
        for question in case
    ]
    path.write_text(json.dumps(samples, indent=1) + "\n", encoding="utf-8")
