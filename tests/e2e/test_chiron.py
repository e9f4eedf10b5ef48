"""The ten real samples of the original project go through check, generate and score, with a tiny model.

They are not part of the repository (their images are not ours to give on); where they lie beside it, they are used.
"""

from __future__ import annotations

import json
from pathlib import Path

from tandem.evaluate.records import Prediction, ScoreLine, read_jsonl
from tandem.model.tiny import make_tiny_model
from tests.e2e.desk import Desk

DATA = Path(__file__).parents[3] / "shared" / "data" / "chiron-eval"

RUN = """
apiVersion: tandem.dev/v1alpha1
kind: Run
metadata: {{name: chiron}}
spec:
  model: {{source: base}}
  evals:
    - name: training-budget
      of: base
      data: {data}
      images: {images}
      tiles: {{max: 6, rule: perSample}}
      maxNewTokens: 8
      precision: float32
    - name: original-budget
      of: base
      data: {data}
      images: {images}
      tiles: {{max: 12, rule: perImage}}
      maxNewTokens: 8
      precision: float32
"""

if DATA.is_dir():

    def test_real_samples_are_checked_generated_and_scored(tmp_path: Path) -> None:
        make_tiny_model(tmp_path / "base", seed=0, tile_size=448)
        text = RUN.format(data=DATA / "eval_data.json", images=DATA)
        (tmp_path / "chiron.yaml").write_text(text)
        desk = Desk(folder=tmp_path)

        checked = desk.tandem("check", "chiron.yaml", "--json")
        assert checked.code == 0, checked.err
        evals = json.loads(checked.out)["facts"]["evals"]
        assert [evals[name]["tiles"] for name in ("training-budget", "original-budget")] == [45, 159]

        answer = desk.tandem("run", "chiron.yaml", "-o", "json")
        assert answer.code == 0, answer.err
        described = json.loads(answer.out)
        store = tmp_path / "tandem-store"
        parts = {path.parts[-6]: path for path in store.rglob("part-00000.jsonl")}
        tiles = {
            name: sum(line.tiles or 0 for line in read_jsonl(Prediction, path.read_bytes(), where=str(path)))
            for name, path in parts.items()
        }
        assert tiles == {"training-budget": 45, "original-budget": 159}
        for entry in described["results"]:
            result = entry["result"]
            assert result["samples"]["total"] == 10
            assert result["metrics"]["accuracy"]["closed"] == {"value": None, "low": None, "high": None, "n": 0}
        for path in store.rglob("samples.jsonl"):
            lines = read_jsonl(ScoreLine, path.read_bytes(), where=str(path))
            assert all(line.reference_reasoning for line in lines)
