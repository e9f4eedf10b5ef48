"""What a training's micro-batches are held to, on a made-up device whose memory follows a line."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tandem.errors import OutOfMemory
from tandem.spec import TrainSpec
from tandem.train.fitting import Memory, Trial, agree, apply_memory, find_fit, is_open, list_sizes, take_as_written


def settings(**changes: Any) -> TrainSpec:
    batch = {"globalSize": 8, "packedTokens": 16_384} | changes.pop("batch", {})
    return TrainSpec.model_validate({"meta": "meta.json", "steps": 1, "batch": batch} | changes)


@dataclass
class Device:
    """Holds so much at rest, and so much for each token."""

    rest: int
    token: int
    token_checkpointed: int
    whole: int
    """Bytes; memory runs out above."""

    def measure(self, tokens: int, checkpointed: bool) -> int | None:
        peak = self.needed(tokens, checkpointed)
        return peak if peak <= self.whole else None

    def needed(self, tokens: int, checkpointed: bool) -> int:
        return self.rest + tokens * (self.token_checkpointed if checkpointed else self.token)


DEVICES = st.builds(
    Device,
    rest=st.integers(0, 10**6),
    token=st.integers(50, 1000),
    token_checkpointed=st.integers(1, 50),
    whole=st.integers(1, 10**7),
)


@given(
    device=DEVICES,
    asked=st.integers(100, 20_000),
    longest=st.integers(16, 100),
    checkpointing=st.sampled_from([None, False, True]),
    spared=st.integers(0, 10**6),
)
def test_it_is_the_first_size_that_fits_and_checkpointing_only_if_none_does_without(
    device: Device, asked: int, longest: int, checkpointing: bool | None, spared: int
) -> None:
    room = device.whole - spared
    train = settings(maxLength=100, batch={"packedTokens": asked}, gradientCheckpointing=checkpointing)
    sizes = list_sizes(train, longest=longest)
    tried = find_fit(device.measure, sizes=sizes, checkpointing=checkpointing, room=room)
    *failed, last = tried
    assert all(trial.peak_bytes is None for trial in failed)
    assert all(device.needed(trial.tokens, trial.checkpointed) > room for trial in failed)
    if last.peak_bytes is not None:
        assert last.peak_bytes == device.needed(last.tokens, last.checkpointed) <= room
    else:
        assert last.tokens == longest
        assert last.checkpointed is (checkpointing is not False)
        assert device.needed(longest, last.checkpointed) > room
    if last.checkpointed and checkpointing is None:
        assert device.needed(longest, False) > room


@given(asked=st.integers(100, 20_000), longest=st.integers(16, 100))
def test_sizes_are_halves_down_to_the_longest_sample(asked: int, longest: int) -> None:
    sizes = list_sizes(settings(maxLength=100, batch={"packedTokens": asked}), longest=longest)
    assert sizes[0] == asked
    assert sizes[-1] == longest
    assert all(small == max(longest, large // 2) for large, small in pairwise(sizes))


def test_without_fit_memory_packed_tokens_is_the_only_size() -> None:
    assert list_sizes(settings(batch={"fitMemory": False}), longest=100) == (16_384,)


def test_a_padded_micro_batch_is_tried_with_as_many_of_the_longest_samples_as_it_has() -> None:
    assert list_sizes(settings(batch={"packedTokens": None, "perDevice": 4}), longest=100) == (400,)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, True),
        ({"gradientCheckpointing": True}, True),
        ({"batch": {"fitMemory": False}}, True),
        ({"batch": {"fitMemory": False}, "gradientCheckpointing": False}, False),
        ({"batch": {"packedTokens": None}}, True),
        ({"batch": {"packedTokens": None}, "gradientCheckpointing": True}, False),
    ],
)
def test_nothing_is_tried_where_the_run_file_leaves_nothing_open(changes: dict[str, Any], expected: bool) -> None:
    assert is_open(settings(**changes)) is expected


@pytest.mark.parametrize(("asked", "expected"), [(None, False), (False, False), (True, True)])
def test_without_trying_it_is_as_written_and_never_checkpointed_by_itself(asked: bool | None, expected: bool) -> None:
    memory = take_as_written(settings(gradientCheckpointing=asked))
    assert memory == Memory(packed_tokens=16_384, gradient_checkpointing=expected)


def trials(*sizes: tuple[int, bool, int | None]) -> tuple[Trial, ...]:
    return tuple(Trial(tokens=tokens, checkpointed=way, peak_bytes=peak) for tokens, way, peak in sizes)


ROOMY = trials((16_384, False, 900))
TIGHT = trials((16_384, False, None), (8_192, False, 800))
TIGHTEST = trials((16_384, False, None), (100, False, None), (16_384, True, 700))


@pytest.mark.parametrize(
    ("of_ranks", "tokens", "checkpointed", "recorded"),
    [
        ([ROOMY, ROOMY], 16_384, False, ROOMY),
        ([ROOMY, TIGHT], 8_192, False, TIGHT),
        ([TIGHT, TIGHTEST, ROOMY], 8_192, True, TIGHTEST),
    ],
)
def test_the_ranks_agree_on_the_smallest_size_and_on_checkpointing_if_one_needs_it(
    of_ranks: Sequence[tuple[Trial, ...]], tokens: int, checkpointed: bool, recorded: tuple[Trial, ...]
) -> None:
    memory = agree(settings(), of_ranks)
    assert memory == Memory(packed_tokens=tokens, gradient_checkpointing=checkpointed, tried=recorded)
    applied = apply_memory(settings(), memory)
    assert (applied.batch.packed_tokens, applied.gradient_checkpointing) == (tokens, checkpointed)
    assert Memory.model_validate_json(memory.model_dump_json()) == memory


def test_padded_micro_batches_stay_padded() -> None:
    train = settings(batch={"packedTokens": None})
    memory = agree(train, [trials((100, False, None), (100, True, 5))])
    assert (memory.packed_tokens, memory.gradient_checkpointing) == (None, True)
    assert apply_memory(train, memory).batch == train.batch


@pytest.mark.parametrize(
    ("changes", "last", "message"),
    [
        ({}, (100, True, None), "rank 1: the longest sample alone (100 tokens) does not fit into the GPU's memory, not "
         "even with gradient checkpointing. Lower maxLength or tiles.max, or take a GPU with more free memory."),
        ({"batch": {"fitMemory": False}}, (16_384, True, None), "Remove batch.fitMemory: false, lower maxLength"),
        ({"gradientCheckpointing": False}, (100, False, None),
         "GPU's memory. Remove gradientCheckpointing: false. Lower maxLength"),
        ({"batch": {"packedTokens": None, "perDevice": 4}}, (400, True, None),
         "a micro-batch of 4 longest samples (400 tokens) does not fit"),
    ],
)  # fmt: skip
def test_what_fits_on_no_account_is_out_of_memory_with_what_to_change(
    changes: dict[str, Any], last: tuple[int, bool, int | None], message: str
) -> None:
    with pytest.raises(OutOfMemory) as raised:
        agree(settings(**changes), [ROOMY, trials(last)])
    assert message in str(raised.value)
