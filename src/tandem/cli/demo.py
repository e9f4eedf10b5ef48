"""`tandem demo prepare` and `tandem demo report`."""

from __future__ import annotations

from pathlib import Path

from tandem.cli.console import print_text, tell
from tandem.cli.places import LOCAL


def make_demo(folder: Path, seed: int) -> None:
    """Make the demo's inputs, once."""
    from tandem.demo.prepare import prepare_demo

    prepare_demo(folder, seed=seed, report=tell)


def report_demo(file: Path, store_url: str, *, across_preprocessing: bool) -> None:
    """Print base and adapter side by side, where everything lies, and what to try next."""
    from tandem.demo.report import count_right_without_marker, draw_comparison
    from tandem.evaluate.records import ScoreLine, read_jsonl
    from tandem.evaluate.result import read_result
    from tandem.record.commit import read_commit, read_file
    from tandem.report.describe import describe_run, find_stages
    from tandem.report.preprocessing import require_comparable
    from tandem.spec import load_run
    from tandem.store.layout import RunPlace
    from tandem.store.opening import open_store

    store = open_store(store_url)
    place = RunPlace(namespace=LOCAL, run_id=load_run(file).id)
    described = describe_run(store, place)
    trees = {
        stage.split("/")[1]: read_commit(store, place, stage).tree
        for stage in find_stages(store, place)
        if stage.startswith("score/")
    }
    results = {
        name: read_result(read_file(store, tree, "result.json"), where=f"{tree.prefix}result.json")
        for name, tree in trees.items()
    }
    compared = {name: results[name].model_dump(mode="json") for name in ("base", "adapter")}
    require_comparable(compared, across=across_preprocessing)
    base = trees["base"]
    lines = read_jsonl(ScoreLine, read_file(store, base, "samples.jsonl"), where=f"{base.prefix}samples.jsonl")
    root = store.url.rstrip("/")
    places = {
        "the Run": described["location"],
        "the adapter": f"{root}/{read_commit(store, place, 'train').tree.prefix}adapter/",
        "every answer of the adapter": f"{root}/{trees['adapter'].prefix}samples.jsonl",
        "all figures": f"{root}/{trees['adapter'].prefix}result.json",
    }
    print_text(
        draw_comparison(
            results["base"],
            results["adapter"],
            base_right_without_marker=count_right_without_marker(lines),
            places=places,
        )
    )
