"""One attempt at a training: load, resume, run the steps, save, and say how it went."""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tandem.errors import BadData, Fault, Stopped
from tandem.model.card import AdapterCard
from tandem.model.compilation import read_compilation
from tandem.model.environment import describe_environment
from tandem.model.loading import load_base
from tandem.store import Store
from tandem.train.adapter import attach_adapter, restore_adapter, save_adapter, trainable_weights
from tandem.train.checkpoints import Measurement, Progress
from tandem.train.corpus import Corpus
from tandem.train.fitting import apply_memory, take_as_written
from tandem.train.full_disk import telling_full_disk
from tandem.train.job import RankJob
from tandem.train.keeping import open_keeper
from tandem.train.metrics import METRICS, Display, MetricsFile, Throughput, measure_memory
from tandem.train.ranks import Ranks
from tandem.train.record import describe_result
from tandem.train.restoring import Restored, restore_newest
from tandem.train.speed import choose_speed, decide_ways
from tandem.train.steps import LoadedStep, Loading, StepLoader, StepSource
from tandem.train.watchdog import Watchdog

if TYPE_CHECKING:
    from tandem.train.trainer import Calendar

logger = logging.getLogger("tandem.train")


@dataclass(kw_only=True)
class Attempt:
    """What an attempt works with, and what it has measured so far."""

    job: RankJob
    ranks: Ranks
    store: Store | None
    clock: Callable[[], float]
    stop_asked: Callable[[], bool]
    watchdog: Watchdog
    loading: Loading
    card: AdapterCard
    validation: Corpus | None
    steps: int
    measurements: list[Measurement] = field(default_factory=list)
    timings: dict[str, float] = field(default_factory=dict)
    restored: Restored | None = None
    notes: list[str] = field(default_factory=list)
    """Fast ways that this model could not take."""

    def go(self) -> None:
        """Load, resume, train, save; whatever happens, checkpoints that are under way get their chance to arrive."""
        self.keeper = open_keeper(self.job, self.ranks, self.store, clock=self.clock, stop_asked=self.stop_asked)
        try:
            self._go()
        except BaseException:
            self.watchdog.stop()
            raise
        finally:
            self.keeper.close()

    def _go(self) -> None:
        import torch

        from tandem.train.trying import settle_memory

        device = "cuda" if torch.cuda.is_available() else "cpu"
        began = self.clock()
        base = load_base(self.job.model_folder, precision=self.job.train.precision.value, device=device)
        self.model = self._adapt(base)
        self.restored = self._restore()
        self.watchdog.hear(lenient=True)
        leave_if_told(self.stop_asked, self.ranks)
        self.timings["load_seconds"] = self.clock() - began
        began = self.clock()
        self.memory = settle_memory(
            self.model,
            self.job.train,
            self.loading,
            self.ranks,
            found=None if self.restored is None else self.restored.progress.memory or take_as_written(self.job.train),
            on_trial=lambda: self.watchdog.hear(lenient=True),
        )
        self.train = apply_memory(self.job.train, self.memory)
        self.timings["fitting_seconds"] = self.clock() - began
        self.metrics = self._open_metrics()
        self.display = Display(self.steps, first=self._first_step) if self.ranks.leads_all else None
        if self.ranks.leads_all:
            self._write_json("environment.json", describe_environment())
        began = self.clock()
        step = self._train() if self._first_step < self.steps else self.steps
        self.timings["train_seconds"] = self.clock() - began
        self._finish(step)

    @property
    def _first_step(self) -> int:
        return self.restored.progress.step if self.restored is not None else 0

    def _adapt(self, base: Any) -> Any:
        adapted = attach_adapter(base, self.job.train.lora, seed=self.job.seed, base=self.job.base.source)
        self._make_fast(base)
        return adapted

    def _make_fast(self, base: Any) -> None:
        import torch

        from tandem.model.speed import make_fast

        for note in make_fast(base, choose_speed(self.job.train, cuda=torch.cuda.is_available())):
            logger.warning("%s", note)
            self.notes.append(note)

    def _restore(self) -> Restored | None:
        if self.store is None:
            return None
        restored = restore_newest(
            self.store,
            self.job.checkpoints_from,
            self.job.work / "resume",
            self.ranks,
            ranks_wanted=self.ranks.world,
        )
        if restored is None:
            return None
        if restored.progress.data != self.loading.corpus.digest or restored.progress.steps != self.steps:
            raise BadData(
                Fault(
                    where=str(self.job.meta),
                    what=f"the training data is not what checkpoint {restored.source} was made from",
                    remedy="Put the data back as it was, or start anew with --again.",
                )
            )
        self.measurements.extend(restored.progress.validation)
        if self.ranks.leads_all:
            logger.info("going on after step %d from %s", restored.progress.step, restored.source)
        return restored

    def _open_metrics(self) -> MetricsFile | None:
        if not self.ranks.leads_all:
            return None
        path = self.job.output / METRICS
        path.unlink(missing_ok=True)
        if self.restored is not None:
            shutil.copyfile(self.restored.folder / METRICS, path)
        board = self.job.output / "tensorboard" if self.job.train.tensorboard else None
        return MetricsFile(path, tensorboard=board)

    def _train(self) -> int:
        """Run the steps that are left; returns the last one done."""
        import torch

        from tandem.train.trainer import Calendar, Hooks, StepTrainer, describe_arguments
        from tandem.train.trying import telling_smaller_device

        train, checkpoints = self.train, self.train.checkpoints
        if train.zero.stage:
            from tandem.train.zero import avoid_compilation

            avoid_compilation()
        every = (train.validation.every_steps or checkpoints.every_steps) if train.validation is not None else None
        calendar = Calendar(steps=self.steps, checkpoint_every=checkpoints.every_steps, validate_every=every)
        trainer = StepTrainer(
            model=self.model,
            arguments=describe_arguments(train, steps=self.steps, folder=self.job.work / "trainer", seed=self.job.seed),
            train=train,
            loader=StepLoader(
                StepSource(self.loading, None, train=train, rank=self.ranks.rank),
                self.steps,
                first=self._first_step,
                workers=train.workers,
            ),
            calendar=calendar,
            ranks=self.ranks,
            hooks=Hooks(
                stop_asked=lambda: self.stop_asked() or self.keeper.failed,
                on_begin=lambda: self._on_begin(calendar),
                on_step=self._on_step,
                on_metrics=self._on_metrics,
                validate=self._validate,
                save_adapter=lambda folder: save_adapter(self.model, folder, self.card),
                on_saved=self._on_saved,
            ),
        )
        torch.manual_seed(self.job.seed * 100_003 + self.ranks.rank)  # each rank drops out its own
        with telling_smaller_device(self.memory, None if self.restored is None else self.restored.source):
            trainer.train(resume_from_checkpoint=str(self.restored.folder) if self.restored is not None else None)
        return int(trainer.state.global_step)

    def _on_begin(self, calendar: Calendar) -> None:
        self.watchdog.hear(lenient=True)
        measured = {measurement.step for measurement in self.measurements}
        if self._first_step and calendar.validates(self._first_step) and self._first_step not in measured:
            self._validate(self._first_step)
        self.throughput = Throughput(clock=self.clock)

    def _on_step(self, loaded: LoadedStep) -> None:
        self.watchdog.hear()
        self.throughput.add(samples=loaded.plan.samples, tokens=loaded.plan.tokens)
        if self.display is not None:
            self.display.advance()

    def _on_metrics(self, step: int, values: dict[str, float]) -> None:
        if self.metrics is None:
            return
        epoch = step * self.job.train.batch.global_size / len(self.loading.corpus.samples)
        line = {**values, **self.throughput.take(), "memory": measure_memory(), "epoch": epoch}
        self.metrics.write(step, line)
        if self.display is not None:
            self.display.show(step, line)

    def _validate(self, step: int) -> None:
        from tandem.train.validation import measure_validation

        assert self.validation is not None
        loss = measure_validation(
            self.model,
            replace(self.loading, corpus=self.validation),
            train=self.train,
            ranks=self.ranks,
            on_batch=self.watchdog.hear,
        )
        self.measurements.append(Measurement(step=step, loss=loss))
        if self.metrics is not None:
            self.metrics.write(step, {"validation_loss": loss})
        if self.display is not None:
            self.display.show(step, {"validation_loss": loss})

    def _on_saved(self, step: int, written: Path) -> None:
        progress = Progress(
            step=step,
            steps=self.steps,
            ranks=self.ranks.world,
            zero_stage=self.job.train.zero.stage,
            data=self.loading.corpus.digest,
            validation=tuple(self.measurements),
            memory=self.memory,
        )
        self.keeper.keep(written, progress, self.metrics.path if self.metrics is not None else None)
        self.watchdog.hear()

    def _finish(self, step: int) -> None:
        if self.display is not None:
            self.display.close()
        if self.metrics is not None:
            self.metrics.close()
        self.watchdog.hear(lenient=True)
        self.keeper.finish(patient=step == self.steps)
        if step < self.steps:
            raise Stopped(
                Fault(
                    where=f"step {step} of {self.steps}",
                    what="training was told to stop and has saved its work",
                    remedy="The next attempt goes on from there.",
                )
            )
        if self.ranks.leads_all:
            self._save_result()
        if self.ranks.leads_node:
            for name in ("trainer", "resume"):
                shutil.rmtree(self.job.work / name, ignore_errors=True)
        self.ranks.wait()

    def _save_result(self) -> None:
        import torch

        if self.restored is not None and self._first_step == self.steps:
            restore_adapter(self.model, self.restored.folder)
        folder = self.job.output / "adapter"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        with telling_full_disk(folder, saving=True):
            save_adapter(self.model, folder, self.card)
        record = describe_result(
            steps=self.steps,
            train=self.job.train,
            corpus=self.loading.corpus,
            measurements=self.measurements,
            trainable=sum(weight.numel() for weight in trainable_weights(self.model)),
            resumed_from=None if self.restored is None else self.restored.source,
            timings=self.timings,
            memory=self.memory,
            ways=decide_ways(self.train, cuda=torch.cuda.is_available()),
            notes=self.notes,
            compilation=read_compilation(),
        )
        self._write_json("train.json", record)

    def _write_json(self, name: str, value: object) -> None:
        body = json.dumps(value, ensure_ascii=False, indent=2, sort_keys=True) + "\n"
        (self.job.output / name).write_text(body, encoding="utf-8")


def leave_if_told(stop_asked: Callable[[], bool], ranks: Ranks) -> None:
    """Stop before the first step if any rank was told to; all ranks must call it. Raises Stopped."""
    if any(ranks.gather(stop_asked())):
        raise Stopped(
            Fault(
                where="before the first step",
                what="training was told to stop",
                remedy="The next attempt begins where this one would have.",
            )
        )
