import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tandem.errors import BadData
from tandem.model.prompt import Turn
from tandem.train.annotations import BadSample, SampleRef, read_samples, scan_samples
from tandem.train.meta import Meta, read_meta

ENTRY = {"root": "pictures", "annotation": "train.jsonl", "data_augment": False, "repeat_time": 1}
ANSWER = {"from": "gpt", "value": "A wall."}


def sample(text: str = "What?", **more: Any) -> dict[str, Any]:
    return {"conversations": [{"from": "human", "value": text}, ANSWER], **more}


def write(folder: Path, *lines: dict[str, Any] | str, **entry: Any) -> Path:
    """Write a meta file of one dataset with these lines; None removes a key of its entry."""
    (folder / "pictures").mkdir(exist_ok=True)
    text = "".join(f"{line if isinstance(line, str) else json.dumps(line)}\n" for line in lines)
    (folder / "train.jsonl").write_text(text)
    path = folder / "meta.json"
    path.write_text(json.dumps({"demo": {k: v for k, v in {**ENTRY, **entry}.items() if v is not None}}))
    return path


def faults(meta: Path) -> list[str]:
    with pytest.raises(BadData) as raised:
        read_samples(read_meta(meta))
    return [str(fault) for fault in raised.value.faults]


def test_a_sample_is_read_with_absolute_paths_and_its_image_in_place(tmp_path: Path) -> None:
    meta = read_meta(write(tmp_path, sample(image="a.png", id=7, length=12), max_dynamic_patch=4, data_augment=True))
    (read,) = read_samples(meta)
    assert read == SampleRef(
        dataset="demo",
        file=tmp_path / "train.jsonl",
        line=1,
        id="7",
        images=(tmp_path / "pictures/a.png",),
        turns=(Turn(role="user", text="<image>\nWhat?"), Turn(role="assistant", text="A wall.")),
        max_tiles=4,
        augment=True,
    )
    assert read.place == f"{tmp_path}/train.jsonl:1"


def test_relative_paths_start_at_the_meta_file_and_not_at_the_working_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "data").mkdir()
    write(tmp_path / "data", sample(image="a.png"))
    monkeypatch.chdir(tmp_path)
    meta = read_meta(Path("data/meta.json"))
    assert read_samples(meta)[0].images == (tmp_path / "data/pictures/a.png",)


def test_an_absolute_image_path_does_not_start_at_the_root(tmp_path: Path) -> None:
    assert read_samples(read_meta(write(tmp_path, sample(image="/else/a.png"))))[0].images == (Path("/else/a.png"),)


@pytest.mark.parametrize("image", [None, "", []])
def test_a_sample_without_images_is_text_only(image: object, tmp_path: Path) -> None:
    assert read_samples(read_meta(write(tmp_path, sample(image=image), sample())))[0].images == ()


def test_several_images_keep_their_order(tmp_path: Path) -> None:
    meta = read_meta(write(tmp_path, sample("<image> <image>", image=["b.png", "a.png"])))
    assert [path.name for path in read_samples(meta)[0].images] == ["b.png", "a.png"]


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=50)
@given(lines=st.integers(1, 12), repeat=st.one_of(st.integers(0, 4), st.floats(0, 1)))
def test_repeat_time_takes_the_first_part_or_whole_repetitions_as_the_original_does(
    tmp_path: Path, lines: int, repeat: float
) -> None:
    """The original: below 1, raw[:int(len(raw) * r)]; above 1, raw * r."""
    meta = write(tmp_path, *[sample(str(number)) for number in range(lines)], repeat_time=repeat)
    every = list(range(1, lines + 1))
    expected = every[: int(lines * repeat)] if repeat < 1 else every * int(repeat)
    assert [read.line for read in read_samples(read_meta(meta))] == expected


def test_a_last_line_without_newline_counts_as_a_line(tmp_path: Path) -> None:
    meta = write(tmp_path, sample("1"), sample("2"), repeat_time=0.5)
    lines = tmp_path / "train.jsonl"
    lines.write_text(lines.read_text().rstrip("\n"))
    assert len(read_samples(read_meta(meta))) == 1


def test_lines_beyond_the_part_that_is_used_are_not_read(tmp_path: Path) -> None:
    assert len(read_samples(read_meta(write(tmp_path, sample(), "broken", repeat_time=0.5)))) == 1


def test_datasets_come_in_the_order_of_the_meta_file(tmp_path: Path) -> None:
    meta = write(tmp_path, sample(), sample())
    meta.write_text(json.dumps({"z": ENTRY, "a": {**ENTRY, "repeat_time": 0.5, "length": 9}}))
    assert [(read.dataset, read.line) for read in read_samples(read_meta(meta))] == [("z", 1), ("z", 2), ("a", 1)]


def test_every_fault_of_a_meta_file_is_told_at_once(tmp_path: Path) -> None:
    meta = write(tmp_path, sample())
    entries = {
        "unknown": {**ENTRY, "repeat": 2},
        "missing": {"root": "pictures", "annotation": "train.jsonl"},
        "half": {**ENTRY, "repeat_time": 1.5},
        "negative": {**ENTRY, "repeat_time": -1},
        "json": {**ENTRY, "annotation": "train.json"},
        "nowhere": {**ENTRY, "root": "none", "annotation": "none.jsonl"},
        "remote": {**ENTRY, "root": "s3://bucket"},
        "text": {**ENTRY, "data_augment": "yes", "max_dynamic_patch": 0},
        "list": [],
        "good": ENTRY,
    }
    meta.write_text(json.dumps(entries))
    told = faults(meta)
    assert [line.split(": ")[1] for line in told] == [
        "unknown", "missing", "missing", "half", "negative", "json", "nowhere", "nowhere", "remote", "text", "text",
        "list",
    ]  # fmt: skip
    assert "repeat: Extra inputs are not permitted. Remove this key." in told[0]
    assert "whole number" in told[3]


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ('{"a": 1,\n\n]', "meta.json:3: not valid JSON"),
        ("{}", "names no dataset"),
        ("[]", "names no dataset"),
        ('{"a": {}, "a": {}}', "'a' stands twice"),
        ("\udcff", "decode"),
    ],
)
def test_a_broken_meta_file_is_a_fault_with_its_place(content: str, told: str, tmp_path: Path) -> None:
    path = tmp_path / "meta.json"
    path.write_bytes(content.encode(errors="surrogateescape"))
    with pytest.raises(BadData, match=told):
        read_meta(path)


def test_a_missing_meta_file_is_a_fault(tmp_path: Path) -> None:
    with pytest.raises(BadData, match="No such file"):
        read_meta(tmp_path / "none.json")


def test_an_annotation_that_has_gone_since_is_a_fault(tmp_path: Path) -> None:
    meta = read_meta(write(tmp_path, sample()))
    (tmp_path / "train.jsonl").unlink()
    with pytest.raises(BadData, match=r"train\.jsonl: cannot be read"):
        read_samples(meta)


BAD_LINES: dict[str, tuple[dict[str, Any] | str, str]] = {
    "an empty line": ("", "the line is empty"),
    "no JSON": ("{'a': 1}", "Invalid JSON"),
    "no object": ("[1]", "should be an object"),
    "no conversation": ({"image": "a.png"}, "conversations: Field required"),
    "an empty conversation": ({"conversations": []}, "at least 1 item"),
    "an unknown speaker": ({"conversations": [{"from": "user", "value": ""}, ANSWER]}, "conversations.0.from"),
    "a text that is none": ({"conversations": [{"from": "human", "value": 3}, ANSWER]}, "conversations.0.value"),
    "no answer": ({"conversations": [{"from": "human", "value": "What?"}]}, "no gpt turn"),
    "no question": ({"conversations": [ANSWER]}, "no human turn"),
    "a late system turn": ({"conversations": [*sample()["conversations"], {"from": "system", "value": ""}]}, "turn 3"),
    "too few placeholders": (sample("<image>", image=["a.png", "b.png"]), "1 <image> in the human turns, but 2"),
    "no placeholder for several": (sample(image=["a.png", "b.png"]), "0 <image> in the human turns, but 2"),
    "a placeholder without image": (sample("<image>"), "1 <image> in the human turns, but 0"),
    "a control token": (sample("</img>"), "control token </img>"),
    "an image that is no path": (sample("<image><image>", image=["", "b.png"]), "'' is not a path"),
    "a remote image": (sample(image="s3://bucket/a.png"), "is not a path"),
    "a video": (sample(video="a.mp4"), "has a video"),
    "an image that is a number": (sample(image=3), "image.str"),
    "images under another key": ({**sample(), "images": ["a.png"]}, "has 'images' but no 'image'"),
}


@pytest.mark.parametrize("name", BAD_LINES)
def test_a_line_that_cannot_be_used_is_a_fault_with_file_and_line(name: str, tmp_path: Path) -> None:
    line, told = BAD_LINES[name]
    found = faults(write(tmp_path, sample(), line))
    assert all(fault.startswith(f"{tmp_path}/train.jsonl:2: ") for fault in found)
    assert any(told in fault for fault in found)


def test_bytes_that_are_no_text_are_a_fault_of_their_line(tmp_path: Path) -> None:
    meta = write(tmp_path, sample(), sample())
    lines = tmp_path / "train.jsonl"
    lines.write_bytes(lines.read_bytes()[:-5] + b"\xff\xfe}\n")
    (fault,) = faults(meta)
    assert f"{lines}:2" in fault


def test_a_byte_order_mark_and_line_ends_of_windows_do_no_harm(tmp_path: Path) -> None:
    meta = read_meta(write(tmp_path, sample(), sample()))
    lines = tmp_path / "train.jsonl"
    lines.write_bytes(b"\xef\xbb\xbf" + lines.read_bytes().replace(b"\n", b"\r\n"))
    assert [found.line for found in read_samples(meta)] == [1, 2]


def test_all_bad_lines_are_told_at_once_up_to_a_limit(tmp_path: Path) -> None:
    meta = read_meta(write(tmp_path, sample(), *["broken"] * 9))
    with pytest.raises(BadData) as raised:
        read_samples(meta)
    assert len(raised.value.faults) == 9
    with pytest.raises(BadData) as raised:
        read_samples(meta, max_faults=4)
    assert len(raised.value.faults) == 5
    assert "stopped here after 4 faults" in raised.value.faults[-1].what


def test_so_many_bad_lines_as_may_be_are_passed_over_among_the_first_so_many(tmp_path: Path) -> None:
    meta = read_meta(write(tmp_path, "broken", sample(), sample(), "broken", "broken"))
    assert [found.line for found in read_samples(meta, limit=4, allowed_bad=2)] == [2, 3]
    with pytest.raises(BadData) as raised:
        read_samples(meta, limit=4, allowed_bad=1)
    assert len(raised.value.faults) == 2


def test_who_may_drop_bad_samples_sees_each_of_them_once_and_all_good_ones(tmp_path: Path) -> None:
    meta = read_meta(write(tmp_path, sample(), "broken", sample(), repeat_time=2))
    scanned = list(scan_samples(meta))
    assert [found.line for found in scanned if isinstance(found, SampleRef)] == [1, 3, 1, 3]
    assert [found.line for found in scanned if isinstance(found, BadSample)] == [2]


def test_reading_is_streamed(tmp_path: Path) -> None:
    meta: Meta = read_meta(write(tmp_path, sample(), "broken"))
    assert isinstance(next(scan_samples(meta)), SampleRef)
