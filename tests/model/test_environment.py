from __future__ import annotations

import json
from pathlib import Path

import torch

from tandem.model.environment import PACKAGES, describe_environment


def test_it_names_everything_that_can_change_a_figure(tmp_path: Path) -> None:
    described = describe_environment(driver_file=tmp_path / "none")
    assert set(described["packages"]) == set(PACKAGES)
    assert described["packages"]["torch"] == torch.__version__.split("+")[0]
    assert described["torch"]["version"] == torch.__version__
    assert described["torch"]["threads"] == torch.get_num_threads()
    assert len(described["devices"]) == torch.cuda.device_count()
    assert described["driver"] is None


def test_the_same_machine_gives_the_same_json() -> None:
    assert json.dumps(describe_environment(), sort_keys=True) == json.dumps(describe_environment(), sort_keys=True)


def test_the_driver_is_its_own_first_line(tmp_path: Path) -> None:
    """The form of /proc/driver/nvidia/version on a machine with an NVIDIA driver."""
    file = tmp_path / "version"
    file.write_text("NVRM version: NVIDIA UNIX x86_64 Kernel Module  570.1  Thu\nGCC version: gcc 12\n")
    assert (
        describe_environment(driver_file=file)["driver"] == "NVRM version: NVIDIA UNIX x86_64 Kernel Module  570.1  Thu"
    )
    file.write_text("")
    assert describe_environment(driver_file=file)["driver"] is None
