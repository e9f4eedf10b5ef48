"""transformers' Trainer with one change: an optimizer step is this rank's list of micro-batches, however many.

Importing this module imports torch and transformers.
"""

from __future__ import annotations

import contextlib
import math
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import Trainer, TrainerCallback, TrainingArguments
from transformers.trainer_callback import PrinterCallback

from tandem.errors import BadConfiguration, BadData, Fault
from tandem.spec import Schedule, TrainSpec
from tandem.train.adapter import require_finite, restore_adapter, trainable_weights
from tandem.train.collate import Tensors
from tandem.train.full_disk import telling_full_disk
from tandem.train.ranks import Ranks
from tandem.train.speed import decide_ways
from tandem.train.steps import LoadedStep, StepLoader
from tandem.train.zero import describe_zero

SCHEDULES = {
    Schedule.COSINE: "cosine",
    Schedule.LINEAR: "linear",
    Schedule.CONSTANT: "constant_with_warmup",
}


@dataclass(frozen=True, kw_only=True)
class Hooks:
    """What happens around the steps; everything but `stop_asked` is called on all ranks at the same steps."""

    stop_asked: Callable[[], bool]
    """Whether this rank was told to stop; if any was, all stop after the step, and save."""
    on_begin: Callable[[], None]
    """Everything is in place; the first step comes next."""
    on_step: Callable[[LoadedStep], None]
    """After each step."""
    on_metrics: Callable[[int, dict[str, float]], None]
    """step, {loss, grad_norm, lr}: every so many steps and at the end."""
    validate: Callable[[int], None]
    """Measure the validation loss after this step."""
    save_adapter: Callable[[Path], None]
    """Write the adapter into a folder (called on rank 0 only)."""
    on_saved: Callable[[int, Path], None]
    """A checkpoint of this step has been written into a folder."""


@dataclass(frozen=True, kw_only=True)
class Calendar:
    """At which steps something is done besides training."""

    steps: int
    checkpoint_every: int
    validate_every: int | None
    """None: no validation."""

    def saves(self, step: int) -> bool:
        """Whether a checkpoint is written after this step."""
        return step % self.checkpoint_every == 0 or step == self.steps

    def validates(self, step: int) -> bool:
        """Whether the validation loss is measured after this step."""
        return self.validate_every is not None and (step % self.validate_every == 0 or step == self.steps)


def describe_arguments(train: TrainSpec, *, steps: int, folder: Path, seed: int) -> TrainingArguments:
    """Trainer's arguments for a Run's settings.

    No mixed precision: the frozen model computes in the precision that it was loaded in.
    """
    cuda = torch.cuda.is_available()
    optimizer = train.optimizer
    return TrainingArguments(
        output_dir=str(folder),
        max_steps=steps,
        per_device_train_batch_size=1,
        gradient_accumulation_steps=1,
        learning_rate=optimizer.learning_rate,
        max_grad_norm=optimizer.clip_norm or 0.0,
        lr_scheduler_type=SCHEDULES[optimizer.schedule],
        warmup_steps=math.ceil(optimizer.warmup_ratio * steps),
        logging_strategy="steps",
        logging_steps=train.log_every_steps,
        logging_nan_inf_filter=False,
        save_strategy="no",
        eval_strategy="no",
        report_to="none",
        disable_tqdm=True,
        remove_unused_columns=False,
        ignore_data_skip=True,  # StepLoader starts at the right step by itself
        seed=seed,
        use_cpu=not cuda,
        ddp_backend="gloo" if train.ranks > 1 and not cuda else None,
        ddp_find_unused_parameters=False,
        deepspeed=describe_zero(train),
    )


class StepTrainer(Trainer):
    """Runs the steps that a StepLoader yields."""

    def __init__(
        self,
        *,
        model: Any,
        arguments: TrainingArguments,
        train: TrainSpec,
        loader: StepLoader,
        calendar: Calendar,
        ranks: Ranks,
        hooks: Hooks,
    ) -> None:
        super().__init__(model=model, args=arguments)
        self.settings, self.loader, self.calendar, self.ranks, self.hooks = train, loader, calendar, ranks, hooks
        self.stopping = False
        self.remove_callback(PrinterCallback)
        self.add_callback(_Conduct(self))

    def get_train_dataloader(self) -> Any:
        """The steps as they are: sharding was done when they were planned."""
        return self.loader

    def create_optimizer(self, model: Any = None) -> torch.optim.Optimizer:  # noqa: ARG002 - Trainer's signature
        """AdamW over the adapter, with weight decay on all of it."""
        if self.optimizer is None:
            settings = self.settings.optimizer
            self.optimizer = torch.optim.AdamW(
                trainable_weights(self.model),
                lr=settings.learning_rate,
                betas=settings.betas,
                eps=settings.eps,
                weight_decay=settings.weight_decay,
                fused=decide_ways(self.settings, cuda=torch.cuda.is_available())["fused_optimizer"],
            )
        return self.optimizer

    def get_batch_samples(self, epoch_iterator: Any, num_batches: int, device: Any) -> tuple[list[Any], None]:  # noqa: ARG002
        """One loaded step; what it is divided by was decided when it was planned."""
        return [next(epoch_iterator)], None

    def training_step(self, model: Any, inputs: Any, num_items_in_batch: Any = None) -> torch.Tensor:  # noqa: ARG002
        """Forward and backward of this rank's micro-batches; returns the loss of the global batch, on all ranks.

        Gradients are reduced once, with the last micro-batch. Under DeepSpeed the optimizer step is taken there too.
        Raises BadData if the loss is not finite.
        """
        loaded: LoadedStep = inputs
        model.train()
        device = self.args.device
        losses = []
        for index, (batch, plan) in enumerate(zip(loaded.tensors, loaded.plan.micro_batches, strict=True)):
            last = index == len(loaded.tensors) - 1
            with self._synchronised(model, last):
                loss = model(**to_device(batch, device), normaliser=plan.normaliser).loss
                self._backward(loss, last)
            losses.append(loss.detach())
        own = torch.stack(losses)
        return self._agree(loaded, own)

    def _synchronised(self, model: Any, last: bool) -> contextlib.AbstractContextManager[Any]:
        if last or self.is_deepspeed_enabled:
            return contextlib.nullcontext()
        unreduced: contextlib.AbstractContextManager[Any] = self.accelerator.no_sync(model)
        return unreduced

    def _backward(self, loss: torch.Tensor, last: bool) -> None:
        if self.is_deepspeed_enabled:
            # The number of micro-batches differs between ranks and steps, so the boundary is set by hand.
            self.accelerator.deepspeed_engine_wrapped.backward(loss, sync_gradients=last, scale_wrt_gas=False)
        else:
            self.accelerator.backward(loss)

    def _agree(self, loaded: LoadedStep, own: torch.Tensor) -> torch.Tensor:
        """The global loss; and whether to stop, which is decided in the same exchange."""
        asked = torch.tensor(float(self.hooks.stop_asked()), device=own.device)
        both = self.ranks.sum(torch.stack([own.sum(), asked]))
        loss: torch.Tensor = both[0] / self.ranks.world
        self.stopping = bool(both[1] > 0)
        if not math.isfinite(loss.item()):
            self._refuse(loaded, own)
        self.hooks.on_step(loaded)
        return loss

    def _refuse(self, loaded: LoadedStep, own: torch.Tensor) -> None:
        require_finite(self.model, step=loaded.step)
        samples = self.loader.dataset.loading.corpus.samples
        bad = [
            samples[number].place
            for loss, plan in zip(own.tolist(), loaded.plan.micro_batches, strict=True)
            if not math.isfinite(loss)
            for _, number in plan.places
        ]
        places = [place for of_rank in self.ranks.gather(bad) for place in of_rank]
        raise BadData(
            Fault(
                where=f"step {loaded.step + 1}",
                what=f"the loss is not a finite number; the micro-batch held {', '.join(places)}",
                remedy="Look at these samples; if they are sound, lower train.optimizer.learningRate.",
            )
        )

    def evaluate(self, *_: Any, **__: Any) -> dict[str, float]:
        """Measure the validation loss our way."""
        self.control.should_evaluate = False
        self.hooks.validate(self.state.global_step)
        return {}

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """Write the adapter: everything else is frozen."""
        if self.ranks.leads_all and output_dir is not None:
            Path(output_dir).mkdir(parents=True, exist_ok=True)
            self.hooks.save_adapter(Path(output_dir))

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        """As Trainer does; what could not be written whole is removed, to make room for what has to be said."""
        assert self.args.output_dir is not None
        require_finite(self.model, step=self.state.global_step)
        folder = Path(self.args.output_dir)
        try:
            with telling_full_disk(folder, saving=True):
                super()._save_checkpoint(model, trial)
        except BadConfiguration:
            shutil.rmtree(folder, ignore_errors=True)
            raise

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:  # noqa: ARG002
        """Trainer would load a second adapter, in a number format of its own choice."""
        restore_adapter(self.model, Path(resume_from_checkpoint))

    def floating_point_ops(self, inputs: Any) -> int:  # noqa: ARG002 - Trainer's signature
        """Not counted: the estimate is of padded text."""
        return 0


class _Conduct(TrainerCallback):
    """Says at each step what comes next, and passes on what has happened."""

    def __init__(self, trainer: StepTrainer) -> None:
        self.trainer = trainer

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:  # noqa: ARG002
        self.trainer.hooks.on_begin()

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> Any:  # noqa: ARG002
        calendar, step = self.trainer.calendar, state.global_step
        stopping = self.trainer.stopping and step < calendar.steps
        # Who was told to stop has little time: the next attempt measures.
        control.should_evaluate = calendar.validates(step) and not stopping
        control.should_save = calendar.saves(step) or stopping
        control.should_training_stop = stopping or step >= calendar.steps
        control.should_log = control.should_log or control.should_training_stop
        return control

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:  # noqa: ARG002
        if logs and "loss" in logs:
            values = {"loss": logs["loss"], "lr": logs["learning_rate"]}
            if "grad_norm" in logs:
                values["grad_norm"] = logs["grad_norm"]
            self.trainer.hooks.on_metrics(state.global_step, values)

    def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:  # noqa: ARG002
        written = Path(args.output_dir) / f"checkpoint-{state.global_step}"
        self.trainer.hooks.on_saved(state.global_step, written)


ON_CPU = frozenset({"input_ids", "labels", "sequence_lengths"})
"""What shapes and places are made from in a packed micro-batch: the model sends it on when it has."""


def to_device(batch: Tensors, device: torch.device) -> Tensors:
    """Move a micro-batch; of a packed one, only what no shape is made from."""
    staying = ON_CPU if "sequence_lengths" in batch else frozenset[str]()
    return {name: tensor if name in staying else tensor.to(device, non_blocking=True) for name, tensor in batch.items()}
