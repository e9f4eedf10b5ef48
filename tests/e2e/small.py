"""A Run small enough for tests: a tiny model that was never trained, three questions, no training."""

from __future__ import annotations

import json
from pathlib import Path

from PIL import Image

from tandem.model.tiny import make_tiny_model

RUN = """
apiVersion: tandem.dev/v1alpha1
kind: Run
metadata: {name: small}
spec:
  model: {source: base}
  evals:
    - name: base
      of: base
      data: eval.json
      tiles: {max: 2}
      maxNewTokens: 4
      precision: float32
      bertScore: null
"""


def write_small_run(folder: Path) -> Path:
    """Write everything and return the Run file."""
    make_tiny_model(folder / "base", seed=0)
    (folder / "images").mkdir()
    for number in range(3):
        Image.new("RGB", (60 + 30 * number, 60), (80 * number, 20, 200)).save(folder / "images" / f"{number}.png")
    samples = [
        {
            "id": f"q{number}",
            "img_name": f"images/{number}.png",
            "question": "Is it blue?",
            "answer": "yes",
            "answer_type": "CLOSED",
        }
        for number in range(3)
    ]
    (folder / "eval.json").write_text(json.dumps(samples))
    file = folder / "small.yaml"
    file.write_text(RUN)
    return file
