"""Which pod of a training this is."""

from __future__ import annotations

import pytest

from tandem.errors import BadConfiguration
from tandem.stage.pods import ALONE, Pod, read_pod


def operator(**more: str) -> dict[str, str]:
    return {"PET_NNODES": "2", "PET_NPROC_PER_NODE": "4", **more}


def test_without_an_operator_there_is_one_pod() -> None:
    assert read_pod({"RANK": "3"}) is ALONE
    assert ALONE.leads
    assert ALONE.count_ranks(4) == 4


@pytest.mark.parametrize("variable", ["PET_NODE_RANK", "RANK"])
def test_the_pod_s_number_is_what_the_operator_says(variable: str) -> None:
    pod = read_pod(operator(**{variable: "1"}))
    assert pod == Pod(number=1, pods=2, processes=4, by_operator=True)
    assert not pod.leads
    assert read_pod(operator(**{variable: "0"})).leads


@pytest.mark.parametrize("processes", ["auto", "gpu", "0", ""])
def test_ranks_are_shared_evenly_where_the_operator_gives_no_number(processes: str) -> None:
    pod = read_pod({"PET_NNODES": "2", "PET_NPROC_PER_NODE": processes})
    assert pod.count_ranks(16) == 8


def test_everything_that_cannot_be_used_is_named() -> None:
    with pytest.raises(BadConfiguration) as caught:
        read_pod({"PET_NNODES": "1:4", "PET_NODE_RANK": "x"})
    assert [fault.where for fault in caught.value.faults] == ["PET_NNODES", "PET_NODE_RANK"]
    with pytest.raises(BadConfiguration, match="PET_NODE_RANK: is 2, but PET_NNODES is 2"):
        read_pod(operator(PET_NODE_RANK="2"))
