"""The processes that train together: who this one is, and the few things they say to each other."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

from tandem.errors import BadConfiguration, Fault, PermanentError, TandemError

_T = TypeVar("_T")


@dataclass(frozen=True, kw_only=True)
class Ranks:
    """One process's place among those that train together, as torchrun numbers them."""

    world: int = 1
    rank: int = 0
    local_rank: int = 0
    local_world: int = 1

    @property
    def leads_all(self) -> bool:
        """Whether this process does what is done once for all."""
        return self.rank == 0

    @property
    def leads_node(self) -> bool:
        """Whether this process does what is done once on each node."""
        return self.local_rank == 0

    def gather(self, value: _T) -> list[_T]:
        """Every rank's value, by rank, on every rank; all of them must call it."""
        if self.world == 1:
            return [value]
        from torch import distributed

        values: list[Any] = [None] * self.world
        distributed.all_gather_object(values, value)
        return values

    def share(self, value: _T) -> _T:
        """Rank 0's value on every rank; all of them must call it."""
        return self.gather(value)[0]

    def wait(self) -> None:
        """Go on when all ranks are here."""
        self.gather(None)

    @contextmanager
    def agreeing(self) -> Iterator[None]:
        """What one rank's block raises, all raise when all have left theirs; what is permanent comes first.

        Only a TandemError is passed on: after anything else this rank ends, and the others lose a peer.
        """
        failure: Exception | None = None
        try:
            yield
        except Exception as error:  # noqa: BLE001 - raised again below, when the others know
            failure = error
        told = (type(failure), failure.faults) if isinstance(failure, TandemError) else None
        met = [one for one in self.gather(told) if one is not None]
        if failure is not None and told is None:
            raise failure
        for kind, faults in sorted(met, key=lambda one: not issubclass(one[0], PermanentError)):
            raise kind(faults) from failure

    def sum(self, tensor: Any) -> Any:
        """Add a tensor over all ranks, in place; all of them must call it."""
        if self.world > 1:
            from torch import distributed

            distributed.all_reduce(tensor)
        return tensor


def read_ranks(environment: Mapping[str, str] = os.environ) -> Ranks:
    """What torchrun says about this process; without torchrun, the only one."""
    return Ranks(
        world=int(environment.get("WORLD_SIZE", "1")),
        rank=int(environment.get("RANK", "0")),
        local_rank=int(environment.get("LOCAL_RANK", "0")),
        local_world=int(environment.get("LOCAL_WORLD_SIZE", "1")),
    )


def connect(ranks: Ranks, *, expected: int) -> None:
    """Choose this rank's device and join the others. Raises BadConfiguration for another number than the Run's."""
    import torch
    from torch import distributed

    if ranks.world != expected:
        raise BadConfiguration(
            Fault(
                where="train.ranks",
                what=f"the Run asks for {expected} ranks, but {ranks.world} were started",
                remedy="Use a profile with as many ranks, or change train.ranks (and with it the batch arithmetic).",
            )
        )
    cuda = torch.cuda.is_available()
    if cuda:
        torch.cuda.set_device(ranks.local_rank)
    else:
        torch.set_num_threads(1)  # sums in one order only, so that results repeat
    if ranks.world > 1:
        distributed.init_process_group("cpu:gloo,cuda:nccl" if cuda else "gloo")


def disconnect(ranks: Ranks) -> None:
    """Leave the others in good order."""
    if ranks.world > 1:
        from torch import distributed

        distributed.destroy_process_group()
