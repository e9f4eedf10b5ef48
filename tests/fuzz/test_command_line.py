"""The worst inputs of each kind through the command line: an exit code that says what to change, and no traceback."""

from __future__ import annotations

import json
import shutil
import struct
import subprocess
import sys
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from tandem.cli import main
from tandem.inputs import Reference, Resolver
from tandem.inputs.pin import pin_input
from tandem.inputs.references import InputKind
from tests.e2e.small import write_small_run
from tests.fuzz.test_images import HOSTILE
from tests.fuzz.test_records import Finished
from tests.fuzz.test_training_data import SAMPLES
from tests.model.remote import GOLDEN, change_json
from tests.model.test_merge import make_adapter

pytestmark = [
    pytest.mark.timeout(120),
    pytest.mark.filterwarnings("ignore::UserWarning", "ignore::FutureWarning"),
]

RUN = """\
apiVersion: tandem.dev/v1alpha1
kind: Run
metadata: {name: small}
spec:
  model: {source: base}
  train:
    meta: meta.json
    epochs: 1
    tiles: {max: 2}
    batch: {globalSize: 1}
  evals:
    - {name: heldout, data: eval.json, precision: float32, bertScore: null}
"""
BOMB = "a: &a [x, x]\n" + "".join(f"{after}: &{after} [*{name}, *{name}]\n" for name, after in pairwise("abcdefghi"))

Answer = tuple[int, str, str]
Tandem = Callable[..., Answer]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Everything that a Run, a conversion and a merge need."""
    folder = tmp_path_factory.mktemp("whole")
    write_small_run(folder)
    (folder / "run.yaml").write_text(RUN)
    entry = {"root": "images", "annotation": "train.jsonl", "data_augment": False, "repeat_time": 1}
    (folder / "meta.json").write_text(json.dumps({"one": entry}))
    lines = [{**sample, "image": ["0.png", "1.png"], "case_id": None} for sample in SAMPLES]
    (folder / "train.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    for family in ("qwen2", "internlm2"):
        shutil.copytree(GOLDEN / family, folder / family)
    (folder / "eval.json").write_text(json.dumps([sample_of()]))
    make_adapter(folder / "base", folder / "adapter")
    base = Reference(place="base", text="base", kind=InputKind.MODEL)
    digest = pin_input(base, Resolver(folder=folder, cache=folder))[0].digest
    change_json(folder / "adapter" / "tandem.json", **{"base.source": "base", "base.digest": digest})
    return folder


@pytest.fixture
def desk(whole: Path, tmp_path: Path) -> Path:
    """A copy to damage."""
    return Path(shutil.copytree(whole, tmp_path / "desk", copy_function=_link))


def _link(source: str, target: str) -> None:
    Path(target).hardlink_to(source)


@pytest.fixture
def tandem(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], tmp_path: Path) -> Tandem:
    """The command line as the console script runs it, in this process: what it does not expect fails the test."""

    def run(folder: Path, *arguments: str) -> Answer:
        monkeypatch.chdir(folder)
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
        monkeypatch.delenv("TANDEM_STORE", raising=False)
        monkeypatch.setattr(sys, "argv", ["tandem", *arguments])
        capfd.readouterr()
        code = 0
        try:
            main()
        except SystemExit as ending:
            code = int(ending.code or 0)
        out, err = capfd.readouterr()
        return code, out, err

    return run


def write(folder: Path, name: str, body: bytes) -> None:
    """A file in place of a link to a whole one."""
    (folder / name).unlink(missing_ok=True)
    (folder / name).write_bytes(body)


def change(folder: Path, name: str, **changes: Any) -> None:
    write(folder, name, (folder / name).read_bytes())
    change_json(folder / name, **changes)


def expect_lines(answer: Answer, code: int, words: str, *beginnings: str) -> None:
    """The code, one clear line at least, and only lines that begin as faults do."""
    assert answer[0] == code, answer
    assert words in answer[2], answer[2][:2_000]
    assert "Traceback" not in answer[2]
    for line in answer[2].splitlines():
        assert line.startswith(beginnings), line[:300]
        assert len(line) < 8_000


def line_of(**changes: Any) -> bytes:
    return json.dumps({**SAMPLES[0], "image": ["0.png", "1.png"], **changes}).encode() + b"\n"


def sample_of(**changes: Any) -> dict[str, Any]:
    sample = {"id": "q", "img_name": "images/2.png", "question": "Is it?", "answer": "yes", "answer_type": "CLOSED"}
    return {**sample, **changes}


def test_the_whole_desk_is_sound(tandem: Tandem, desk: Path) -> None:
    assert tandem(desk, "check", "run.yaml")[0] == 0
    assert tandem(desk, "convert", "internlm2", "made")[0] == 0
    assert tandem(desk, "merge", "adapter", "merged")[0] == 0


RUN_FILES: dict[str, tuple[bytes, str]] = {
    "brackets": (b"[" * 400_000, "nested more than 50 deep"),
    "a billion laughs": (BOMB.encode(), "the alias *a is not supported"),
    "half a megabyte": (b"#" * 500_001, "has more than 500000 bytes"),
    "UTF-16": (RUN.encode("utf-16"), "is not UTF-8"),
    "a user who is not there": (RUN.replace("source: base", "source: ~nobody-here/x").encode(), "cannot be looked for"),
    "a name of 5,000 letters": (RUN.replace("source: base", f"source: {'x' * 5_000}").encode(), "cannot be looked for"),
    "a number that is none": (RUN.replace("epochs: 1", "epochs: .nan").encode(), "is no number that can be used"),
}


@pytest.mark.parametrize(("body", "words"), RUN_FILES.values(), ids=RUN_FILES.keys())
@pytest.mark.parametrize("command", ["check", "run"])
def test_a_run_file_made_to_do_harm(tandem: Tandem, desk: Path, command: str, body: bytes, words: str) -> None:
    write(desk, "run.yaml", body)
    beginnings = ("tandem: ", "fault: ", "warning: ")
    expect_lines(tandem(desk, command, "run.yaml"), 78, words, *beginnings)


INPUTS: dict[str, tuple[str, bytes, str]] = {
    "meta file: brackets": ("meta.json", b"[" * 100_000, "nested too deeply"),
    "meta file: repeated 10^12 times": (
        "meta.json",
        b'{"x": {"root": ".", "annotation": "train.jsonl", "data_augment": false, "repeat_time": 1000000000000}}',
        "Lower repeat_time",
    ),
    "meta file: another format": ("meta.json", b"PK\x03\x04" + bytes(range(256)), "meta.json"),
    "samples: a line of 20 MB": ("train.jsonl", line_of(x="x" * 20_000_000) + line_of(), "more than 16777216 bytes"),
    "samples: half a surrogate pair": ("train.jsonl", line_of(id="\ud800"), "train.jsonl:1"),
    "samples: brackets": ("train.jsonl", b'{"id":' + b"[" * 100_000 + b"\n", "recursion limit"),
    "samples: a name of 5,000 letters": ("train.jsonl", line_of(image=["0.png", "x" * 5_000]), "a name that"),
    "samples: a device": ("train.jsonl", line_of(image=["0.png", "/dev/zero"]), "is a pipe or a device"),
    "samples: another format": ("train.jsonl", b"{}\n" * 20_000, "reading stopped here after 10001 lines"),
    "evaluation: brackets": ("eval.json", b"[" * 100_000, "nested too deeply"),
    "evaluation: a number of 5,000 digits": ("eval.json", b'[{"id": ' + b"9" * 5_000 + b"}]", "number too long"),
    "evaluation: another format": ("eval.json", b"{}\n" * 10_000, "and 81 more of this kind"),
    "evaluation: a key with a line break": ("eval.json", json.dumps([sample_of(id="a\nb")] * 2).encode(), "a\\nb"),
    "image: a text": ("images/0.png", b"a text\n", "not an image of a known format"),
    **{f"image: {name}": ("images/0.png", body, "images/0.png") for name, body in HOSTILE.items()},
    "model: a width of 10^30": ("base/config.json", b"", "config.json"),
    "model: a header of 2^63 bytes": ("base/model.safetensors", struct.pack("<Q", 2**63) + b"{}", "safetensors"),
    "model: files elsewhere": (
        "base/model.safetensors.index.json",
        b'{"weight_map": {"a": "../../../../dev/zero"}}',
        "no safetensors file beside it",
    ),
    "model: brackets for a tokenizer": ("base/tokenizer.json", b"[" * 100_000, "tokenizer"),
}


@pytest.mark.parametrize(("name", "body", "words"), INPUTS.values(), ids=INPUTS.keys())
def test_an_input_made_to_do_harm(tandem: Tandem, desk: Path, name: str, body: bytes, words: str) -> None:
    if body:
        write(desk, name, body)
    else:
        change(desk, name, **{"text_config.hidden_size": 10**30})
    code = 78 if name == "base/config.json" else 65
    expect_lines(tandem(desk, "check", "run.yaml"), code, words, "fault: ", "warning: ", "TIFF", "More samples")


@pytest.mark.parametrize("given", ["nan", "inf", "-1", "0", "1e300"])
def test_a_memory_that_no_gpu_has(tandem: Tandem, desk: Path, given: str) -> None:
    expect_lines(tandem(desk, "check", "run.yaml", f"--gpu-memory={given}"), 78, "--gpu-memory", "tandem: ")


@pytest.mark.parametrize("command", [("convert", "qwen2"), ("merge", "adapter")])
def test_a_folder_that_cannot_be_made(tandem: Tandem, desk: Path, command: tuple[str, str]) -> None:
    expect_lines(tandem(desk, *command, "x" * 5_000), 78, "cannot be written", "tandem: ")


def test_an_endless_file_of_each_kind_is_not_read_to_its_end(tandem: Tandem, desk: Path) -> None:
    for arguments in (("check", "/dev/zero"), ("run", "/dev/zero"), ("score", "x", "--settings", "/dev/zero")):
        answer = tandem(desk, *arguments)
        expect_lines(answer, 78, "has more than 500000 bytes", "tandem: ", "fault: ")
    (desk / "eval.json").unlink()
    (desk / "eval.json").symlink_to("/dev/zero")
    expect_lines(tandem(desk, "check", "run.yaml"), 65, "has more than 268435456 bytes", "fault: ", "warning: ")


SETTINGS: dict[str, tuple[bytes, str]] = {
    "a billion laughs": (BOMB.encode(), "settings.yaml:2: the alias *a is not supported"),
    "a tag": (b"judge: !!python/object:os.system x\n", "settings.yaml:1: tags (!...) are not supported"),
    "braces": (b"{?" * 200_000, "nested more than 50 deep"),
    "nothing": (b"", "settings.yaml: is empty"),
    "not UTF-8": (b"\xff\xfe", "settings.yaml:1: is not UTF-8"),
    "a number that no JSON holds": (b"judge: {kind: exact, maxRetries: 9007199254740992.0}\n", "is more than 2^53 - 1"),
}


@pytest.mark.parametrize(("body", "words"), SETTINGS.values(), ids=SETTINGS.keys())
def test_scoring_settings_made_to_do_harm(tandem: Tandem, tmp_path: Path, body: bytes, words: str) -> None:
    run = Finished(tmp_path).place.run_id
    write(tmp_path, "settings.yaml", body)
    answer = tandem(tmp_path, "score", run, "--store", "store", "--settings", "settings.yaml")
    expect_lines(answer, 78, words, "tandem: settings.yaml")


CHECKPOINTS: dict[str, tuple[str, str, bytes | dict[str, Any], str]] = {
    "a vocabulary of 10^12": ("qwen2", "config.json", {"llm_config.vocab_size": 10**12}, "llm_config.vocab_size"),
    "a template with a line break": ("qwen2", "config.json", {"template": "a\nb"}, "is not a template that tandem"),
    "brackets": ("qwen2", "config.json", b"[" * 100_000, "is not JSON"),
    "half a surrogate pair": ("qwen2", "added_tokens.json", b'{"\\ud800": 9}', "is not JSON"),
    "no vocabulary": ("qwen2", "vocab.json", b"\x00", "vocab.json: is not JSON"),
    "no merges": ("qwen2", "merges.txt", b"\xff\xfe a b c\n" * 3, "does not merge two tokens"),
    "cut weights": ("qwen2", "model-00001-of-00003.safetensors", b"\x08" + bytes(15), "cannot be read as safetensors"),
    "another format": ("internlm2", "tokenizer.model", b"PK\x03\x04" * 100, "is not a SentencePiece model"),
    "generation settings": ("qwen2", "generation_config.json", b'{"max_new_tokens": -5}', "does not accept it"),
}


@pytest.mark.parametrize("case", CHECKPOINTS.values(), ids=CHECKPOINTS.keys())
def test_a_remote_checkpoint_made_to_do_harm(
    tandem: Tandem, desk: Path, case: tuple[str, str, bytes | dict[str, Any], str]
) -> None:
    family, name, damage, words = case
    if isinstance(damage, bytes):
        write(desk / family, name, damage)
    else:
        change(desk / family, name, **damage)
    expect_lines(tandem(desk, "convert", family, "made"), 65, words, "tandem: ")
    assert not (desk / "made").exists()


ADAPTERS: dict[str, tuple[str, bytes, str]] = {
    "brackets for settings": ("adapter_config.json", b"[" * 100_000, "adapter_config.json: is not JSON"),
    "brackets for a card": ("tandem.json", b"[" * 100_000, "tandem.json: the whole file"),
    "a card of 10 MB": ("tandem.json", b" " * 10_000_000, "tandem.json: the whole file"),
    "no weights": ("adapter_model.safetensors", b"", "adapter_model.safetensors"),
}


@pytest.mark.parametrize("case", ADAPTERS.values(), ids=ADAPTERS.keys())
def test_an_adapter_made_to_do_harm(tandem: Tandem, desk: Path, case: tuple[str, bytes, str]) -> None:
    name, body, words = case
    write(desk / "adapter", name, body)
    expect_lines(tandem(desk, "merge", "adapter", "made"), 65, words, "tandem: ")
    assert not (desk / "made").exists()


RECORDS: dict[str, tuple[str, bytes | None, str]] = {
    "no JSON": ("run.json", b"\x00", "run.json"),
    "brackets": ("run.json", b"[" * 100_000, "is not a run record"),
    "another version": ("run.json", b'{"schema": "tandem.dev/run-record/v2"}', "Use the version of tandem"),
    "a broken commit": ("train/commit.json", b"{", "is not a commit that tandem wrote"),
    "a manifest of another tree": (
        "evals/heldout/scores/0123456789/executions/001-a/manifest.json",
        b"{}",
        "was changed after it was committed",
    ),
    "no manifest": ("evals/heldout/scores/0123456789/executions/001-a/manifest.json", None, "there is no such object"),
    "another result": ("evals/heldout/scores/0123456789/executions/001-a/result.json", b"{}", "was changed or damaged"),
    "no result": ("evals/heldout/scores/0123456789/executions/001-a/result.json", None, "there is no such object"),
}


@pytest.mark.parametrize(("name", "body", "words"), RECORDS.values(), ids=RECORDS.keys())
def test_a_damaged_store_is_named(tandem: Tandem, tmp_path: Path, name: str, body: bytes | None, words: str) -> None:
    finished = Finished(tmp_path)
    path = finished.path(f"{finished.place.prefix}{name}")
    path.unlink()
    if body is not None:
        path.write_bytes(body)
    expect_lines(tandem(tmp_path, "show", finished.place.run_id, "--store", "store"), 65, words, "tandem: ")


@pytest.mark.parametrize("wanted", ["x" * 5_000, "a\nb", "..", "/"])
@pytest.mark.parametrize("command", [("show",), ("logs",), ("score",), ("merge", "made")])
def test_any_name_of_a_run_is_one_line(tandem: Tandem, tmp_path: Path, command: tuple[str, ...], wanted: str) -> None:
    Finished(tmp_path)
    answer = tandem(tmp_path, command[0], wanted, *command[1:], "--store", "store/../store")
    assert answer[0] in (65, 78)
    expect_lines(answer, answer[0], "tandem: ", "tandem: ")


FACTS = {"RUN_URI": "file:///x/runs/local/r/run.json", "RUN_SHA256": "x", "STAGE": "train", "ATTEMPT": "1"}


@pytest.mark.parametrize(
    "changed",
    [{"ATTEMPT": "9" * 5_000}, {"STAGE": "generate/a/" + "9" * 5_000}, {"RUN_URI": "\x1b[2J"}, {"RUN_URI": ""}],
    ids=["attempt", "stage", "address", "nothing"],
)
def test_facts_made_to_do_harm(
    tandem: Tandem, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changed: dict[str, str]
) -> None:
    for name, value in {**FACTS, **changed}.items():
        monkeypatch.setenv(name, value)
    code, out, _ = tandem(tmp_path, "stage", "train")
    assert code == 78
    assert out.startswith("tandem-outcome {")
    assert len(out.splitlines()) == 1


WITHIN = 700_000_000
"""Bytes: an evaluation file at its limit, and the interpreter."""
READ_ALL = """
import resource, sys
from pathlib import Path
resource.setrlimit(resource.RLIMIT_DATA, ({within}, {within}))
from tandem.errors import TandemError
from tandem.evaluate.samples import read_eval_samples
from tandem.model.images import open_image
from tandem.model.json_files import read_json
from tandem.spec import load_run
from tandem.store import open_store
from tandem.train.annotations import scan_samples
from tandem.train.meta import read_meta
def samples(path):
    for one in scan_samples(read_meta(path)):
        raise TandemError(one.faults)
big, folder = Path("big.jsonl"), Path(".")
for read in (load_run, read_meta, read_eval_samples, read_json, open_image, lambda _: open_store(".").get("giant")):
    try:
        read(big)
        sys.exit(f"{{read}} has read it")
    except TandemError as error:
        print(error)
try:
    samples(folder / "meta.json")
except TandemError as error:
    print(error)
"""


def test_a_file_of_gigabytes_is_refused_before_it_is_in_memory(tmp_path: Path) -> None:
    for name, size in (("big.jsonl", 300 * 2**20), ("giant", 2 * 2**30)):
        with (tmp_path / name).open("wb") as file:
            file.truncate(size)
    entry = {"root": ".", "annotation": "big.jsonl", "data_augment": False, "repeat_time": 1}
    (tmp_path / "meta.json").write_text(json.dumps({"one": entry}))
    done = subprocess.run(
        [sys.executable, "-c", READ_ALL.format(within=WITHIN)],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.splitlines()) == 7
