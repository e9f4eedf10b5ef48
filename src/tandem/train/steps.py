"""What one rank does in one optimizer step, and the tensors for it, made in worker processes."""

from __future__ import annotations

import os
import random
import signal
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING

from tandem.errors import BadData, Fault, TandemError
from tandem.model.prompt import Tokenizer
from tandem.process import die_with_parent
from tandem.spec import LossRule, TrainSpec
from tandem.train.collate import Tensors, pack, pad
from tandem.train.corpus import Corpus
from tandem.train.packing import deal_step, pack_in_order, pack_step, place_samples
from tandem.train.ranks import Ranks
from tandem.train.samples import Example, Length, ReadingRules, build_example

if TYPE_CHECKING:
    from torch.utils.data import DataLoader

Place = tuple[int, int]
"""(epoch, sample number): augmentation draws anew in each epoch."""


@dataclass(frozen=True, kw_only=True)
class MicroBatchPlan:
    """Samples that go through the model together, and what the sum of their token losses is divided by.

    The normaliser takes into account that gradients are averaged over the ranks.
    """

    places: tuple[Place, ...]
    normaliser: float


@dataclass(frozen=True, kw_only=True)
class StepPlan:
    """One rank's share of one optimizer step, and the size of the whole."""

    micro_batches: tuple[MicroBatchPlan, ...]
    samples: int
    """Of all ranks."""
    tokens: int
    """Of all ranks, padding not counted."""


@dataclass(frozen=True, kw_only=True, eq=False)
class LoadedStep:
    """A StepPlan with its tensors, or the reason why there are none."""

    step: int
    plan: StepPlan
    tensors: tuple[Tensors, ...]
    failure: tuple[type[TandemError], tuple[Fault, ...]] | None = None

    def pin_memory(self) -> LoadedStep:
        """The same step in memory that a GPU can fetch from by itself; DataLoader calls this."""
        pinned = tuple({name: tensor.pin_memory() for name, tensor in batch.items()} for batch in self.tensors)
        return replace(self, tensors=pinned)


def plan_step(step: int, lengths: Sequence[Length], *, train: TrainSpec, seed: int, rank: int) -> StepPlan:
    """One rank's share of optimizer step `step` (from 0): a pure function of settings, lengths and seed."""
    size, ranks = train.batch.global_size, train.ranks
    places = place_samples(step, samples=len(lengths), global_size=size, seed=seed)
    chosen = [lengths[sample] for _, sample in places]
    if train.batch.packed_tokens is not None:
        layout = pack_step([length.tokens for length in chosen], ranks=ranks, budget=train.batch.packed_tokens)
    else:
        layout = deal_step(size, ranks=ranks, per_device=train.batch.per_device)
    labelled = sum(length.labelled for length in chosen)

    def normaliser(micro_batch: Sequence[int]) -> float:
        if train.loss is LossRule.GLOBAL_TOKEN_MEAN:
            return labelled / ranks
        return float(sum(chosen[position].labelled for position in micro_batch) * len(layout[rank]))

    return StepPlan(
        micro_batches=tuple(
            MicroBatchPlan(
                places=tuple(places[position] for position in micro_batch), normaliser=normaliser(micro_batch)
            )
            for micro_batch in layout[rank]
        ),
        samples=size,
        tokens=sum(length.tokens for length in chosen),
    )


def plan_validation(lengths: Sequence[Length], *, train: TrainSpec, ranks: Ranks) -> tuple[StepPlan, ...]:
    """One rank's share of the validation set, in its order: one micro-batch a plan, each sample on one rank."""
    ours = range(ranks.rank, len(lengths), ranks.world)
    if train.batch.packed_tokens is not None:
        batches = pack_in_order([lengths[sample].tokens for sample in ours], budget=train.batch.packed_tokens)
    else:
        batches = tuple(
            tuple(range(start, min(start + train.batch.per_device, len(ours))))
            for start in range(0, len(ours), train.batch.per_device)
        )
    return tuple(
        StepPlan(
            micro_batches=(MicroBatchPlan(places=tuple((0, ours[position]) for position in batch), normaliser=1.0),),
            samples=len(batch),
            tokens=sum(lengths[ours[position]].tokens for position in batch),
        )
        for batch in batches
    )


@dataclass(frozen=True, kw_only=True)
class Loading:
    """What turns a plan into tensors."""

    corpus: Corpus
    tokenizer: Tokenizer
    rules: ReadingRules
    packed: bool
    seed: int

    def load(self, step: int, plan: StepPlan) -> LoadedStep:
        """Decode, tile and collate; a bad sample comes back as a value, for errors do not survive the way between
        processes whole.
        """
        try:
            collate = pack if self.packed else pad
            tensors = tuple(
                collate([self._example(*place) for place in micro_batch.places]) for micro_batch in plan.micro_batches
            )
        except TandemError as error:
            return LoadedStep(step=step, plan=plan, tensors=(), failure=(type(error), error.faults))
        return LoadedStep(step=step, plan=plan, tensors=tensors)

    def _example(self, epoch: int, number: int) -> Example:
        sample = self.corpus.samples[number]
        rng = random.Random(f"{self.seed}/{epoch}/{number}")  # noqa: S311 - image quality, not a secret
        example = build_example(sample, self.tokenizer, rules=self.rules, rng=rng)
        expected = self.corpus.lengths[number].tokens
        if not isinstance(example, Example) or len(example.input_ids) != expected:
            raise BadData(
                Fault(
                    where=sample.place,
                    what=f"has no longer the {expected} tokens that were counted at the start",
                    remedy="Leave the training data alone while a training reads it.",
                )
            )
        return example


class StepSource:
    """What a DataLoader's workers hold: step number -> LoadedStep."""

    def __init__(self, loading: Loading, plans: Sequence[StepPlan] | None, *, train: TrainSpec, rank: int) -> None:
        self.loading, self.plans, self.train, self.rank = loading, plans, train, rank

    def __getitem__(self, step: int) -> LoadedStep:
        """Load one step; without given plans, the training's."""
        if self.plans is not None:
            plan = self.plans[step]
        else:
            lengths, seed = self.loading.corpus.lengths, self.loading.seed
            plan = plan_step(step, lengths, train=self.train, seed=seed, rank=self.rank)
        return self.loading.load(step, plan)


def _be_worker(rank_process: int, _worker: int) -> None:
    """Die with the rank, but not by what it is told: SIGTERM to its process group (as torchrun sends it) and Ctrl-C
    are for the rank alone, which needs its workers for the steps that are left.
    """
    die_with_parent(rank_process)
    os.setpgid(0, 0)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)  # from the DataLoader itself; the inherited one only sets a flag


class StepLoader:
    """Loaded steps in order, from `first` on; its length is that of the whole training, as Trainer counts it."""

    def __init__(
        self, source: StepSource, steps: int, *, first: int = 0, workers: int = 0, pinned: bool = False
    ) -> None:
        self.dataset = source
        self.steps, self.first, self.workers, self.pinned = steps, first, workers, pinned

    def __len__(self) -> int:
        return self.steps

    def __iter__(self) -> Iterator[LoadedStep]:
        """Yield the steps. Raises what loading one of them met."""
        for loaded in self._loader():
            if loaded.failure is not None:
                kind, faults = loaded.failure
                raise kind(faults)
            yield loaded

    def _loader(self) -> DataLoader[LoadedStep]:
        import torch
        from torch.utils.data import DataLoader

        source: object = self.dataset
        return DataLoader(
            source,  # type: ignore[arg-type]
            batch_size=None,
            sampler=range(self.first, self.steps),
            num_workers=self.workers,
            multiprocessing_context="fork" if self.workers else None,
            worker_init_fn=partial(_be_worker, os.getpid()),
            pin_memory=torch.cuda.is_available(),
            # A generator of its own: the default one would draw from the state that dropout goes on from.
            generator=torch.Generator().manual_seed(0),
        )
