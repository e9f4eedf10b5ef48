"""Which of the pods that train together this process is in."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from tandem.errors import BadConfiguration, Fault


@dataclass(frozen=True, kw_only=True)
class Pod:
    """One of the pods of a training; on one machine the only one."""

    number: int = 0
    """From 0. The first one alone writes into the store what is not its ranks' checkpoints."""
    pods: int = 1
    processes: int | None = None
    """Ranks of a pod; None: the ranks of the Run, shared evenly."""
    by_operator: bool = False
    """Whether torchrun learns from its environment how it meets the others."""

    @property
    def leads(self) -> bool:
        """Whether rank 0 is in this pod."""
        return self.number == 0

    def count_ranks(self, ranks: int) -> int:
        """Ranks that run in this pod, of so many in all."""
        return self.processes or max(1, ranks // self.pods)


ALONE = Pod()


def read_pod(environment: Mapping[str, str]) -> Pod:
    """What a PyTorchJob says about this pod, in the variables that torchrun reads too.

    Raises BadConfiguration for all that cannot be used at once.
    """
    if "PET_NNODES" not in environment:
        return ALONE
    rank = "PET_NODE_RANK" if "PET_NODE_RANK" in environment else "RANK"
    pods, number = environment["PET_NNODES"], environment.get(rank, "0")
    faults = [
        Fault(where=name, what=f"is no number ({value[:20]!r})", remedy="Trainings have a fixed number of pods.")
        for name, value in (("PET_NNODES", pods), (rank, number))
        if not (value.isascii() and value.isdigit())
    ]
    if faults:
        raise BadConfiguration(faults)
    if not int(number) < int(pods):
        raise BadConfiguration(
            Fault(where=rank, what=f"is {number}, but PET_NNODES is {pods}", remedy="Let the PyTorchJob set both.")
        )
    processes = environment.get("PET_NPROC_PER_NODE", "")
    return Pod(
        number=int(number),
        pods=int(pods),
        processes=int(processes) if processes.isascii() and processes.isdigit() and int(processes) else None,
        by_operator=True,
    )
