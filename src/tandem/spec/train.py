"""The training section of the Run file."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Self

from pydantic import Field, model_validator

from tandem.spec.base import BrokenRule, Section, refuse
from tandem.spec.model import Precision, TilesSpec

LANGUAGE_MODEL_PROJECTIONS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
Decay = Annotated[float, Field(ge=0, lt=1)]
FINAL_ANSWER = "### The final answer is: {answer}"


def find_marker(answer_template: str) -> str:
    """What ends the reasoning and begins the answer: the template's text before {answer}."""
    return answer_template.partition("{answer}")[0].strip()


class Schedule(StrEnum):
    """How the learning rate falls after the warm-up."""

    COSINE = "cosine"
    LINEAR = "linear"
    CONSTANT = "constant"


class LossRule(StrEnum):
    """What the sum of token losses is divided by."""

    GLOBAL_TOKEN_MEAN = "global_token_mean"  # noqa: S105
    MICRO_BATCH_MEAN = "micro_batch_mean"


class LoraSpec(Section):
    """The low-rank adapter on the language model; vision tower and projector stay frozen."""

    r: int = Field(default=16, ge=1)
    """Rank: inner size of each pair of matrices. 16 is the original's."""
    alpha: int = Field(default=32, ge=1)
    """Scale of the adapter: its output is multiplied by alpha / r. Twice r is the original's."""
    dropout: float = Field(default=0.05, ge=0, lt=1)
    """Share of the adapter's inputs set to zero while training. 0.05 is the original's."""
    targets: tuple[str, ...] = Field(default=LANGUAGE_MODEL_PROJECTIONS, min_length=1)
    """Names of the language model's linear layers that get an adapter. All seven, as in the original."""
    dtype: Precision = Precision.FLOAT32
    """Number format of the adapter's weights. float32 keeps small updates; bfloat16 is faster on a GPU."""


class OptimizerSpec(Section):
    """AdamW and its schedule."""

    learning_rate: float = Field(default=4e-5, gt=0)
    """Highest learning rate. 4e-5 is the original's."""
    betas: tuple[Decay, Decay] = (0.9, 0.999)
    """Decay of AdamW's two running means, each at least 0 and less than 1."""
    eps: float = Field(default=1e-8, gt=0)
    """Added to AdamW's denominator."""
    clip_norm: float | None = Field(default=1.0, gt=0)
    """Largest gradient norm; a larger gradient is scaled down to it. None: no clipping."""
    weight_decay: float = Field(default=0.01, ge=0)
    """AdamW's decoupled weight decay: 0.01 for 2B and 0.05 for 8B in the original."""
    warmup_ratio: float = Field(default=0.03, ge=0, lt=1)
    """Share of all steps in which the learning rate rises from 0."""
    schedule: Schedule = Schedule.COSINE
    """Shape of the fall after the warm-up, to 0 at the last step."""


class BatchSpec(Section):
    """How many samples make one optimizer step, and how they are laid out on the ranks."""

    global_size: int = Field(ge=1)
    """Samples of one optimizer step over all ranks, exact to the sample."""
    per_device: int = Field(default=1, ge=1)
    """Samples of one padded micro-batch on one rank. globalSize must be a multiple of perDevice x ranks. Unused
    with packing."""
    packed_tokens: int | None = Field(default=None, ge=16)
    """Pack samples, without attention between them, into micro-batches of at most this many tokens. None: pad."""
    fit_memory: bool = True
    """Pack into the largest micro-batches that the GPU's memory holds, up to packedTokens: found once, by trying
    halves of it down to the longest sample, and recorded. False: packedTokens as it is. Without a GPU, and when
    padding, nothing is tried."""


class ZeroSpec(Section):
    """DeepSpeed ZeRO."""

    stage: int = Field(default=1, ge=0, le=1)
    """1 shares the optimizer's state among the ranks with DeepSpeed; 0 trains without DeepSpeed."""
    bucket_elements: int = Field(default=20_000_000, ge=1000)
    """Gradient elements reduced at once. A rank-16 LoRA of a 2B model has 18.5 million in all: larger buckets,
    such as the 1e9 of the original, only hold memory."""


class SpeedSpec(Section):
    """Faster ways to the same training, the first four for packed micro-batches. None: taken with a GPU."""

    packed_attention: bool | None = None
    """Attention by a kernel that takes the samples' lengths, instead of a mask that grows with packedTokens squared.
    None: with a GPU."""
    fused_lora: bool | None = None
    """Decoder layers with their adapter as few operators: inputs are read once for all adapters on them, dropout
    masks are made anew instead of kept. Adapters are multiplied in the model's number format, whatever theirs is.
    None: with a GPU."""
    fused_loss: bool | None = None
    """Loss and gradient in one go: each logit is made once. Needs labelsOnly. None: with a GPU."""
    compiled: bool | None = None
    """Layers of both towers through torch.compile: half a minute before the first step. None: with a GPU."""
    labels_only: bool | None = None
    """Logits and loss only where there is a label. False: at every position, as the original does; the loss is the
    same. None: yes, without a GPU too."""
    fused_optimizer: bool | None = None
    """AdamW as one kernel for all weights. None: with a GPU."""


WAYS_OF_ANY_BATCH = frozenset({"labels_only", "fused_optimizer"})
"""Of SpeedSpec: the others are for packed micro-batches."""


class ValidationSpec(Section):
    """A set whose loss is measured while training; it alone chooses the best checkpoint."""

    meta: str = Field(min_length=1)
    """A meta file like the training one."""
    every_steps: int | None = Field(default=None, ge=1)
    """Optimizer steps between two measurements. None: at every checkpoint and at the end."""


class CheckpointSpec(Section):
    """What a stopped training can go on from."""

    every_steps: int = Field(default=200, ge=1)
    """Optimizer steps between two checkpoints."""
    keep: int = Field(default=2, ge=1)
    """How many of the newest to keep on the training machine's disk. The store keeps all of them."""


class TrainSpec(Section):
    """LoRA finetuning."""

    meta: str = Field(min_length=1)
    """InternVL's meta file: {dataset: {root, annotation, data_augment, repeat_time, max_dynamic_patch}}."""
    ranks: int = Field(default=1, ge=1)
    """Processes that train together, one a GPU."""
    lora: LoraSpec = LoraSpec()
    """The adapter."""
    tiles: TilesSpec = TilesSpec(max=6)
    """Tile budget. 6 a sample is the original's."""
    max_length: int = Field(default=8192, ge=16)
    """Tokens of the longest sample, image tokens included. Longer ones are counted and reported, never cut
    through an image."""
    drop_too_long: int = Field(default=0, ge=0)
    """How many samples longer than maxLength may be left out. More than that stops the run."""
    drop_bad: int = Field(default=0, ge=0)
    """How many unreadable samples may be left out. They are named in the record. More stop the run."""
    answer_template: str = Field(default=FINAL_ANSWER, pattern=r"\S.*\{answer\}")
    """How an answer ends: what stands before {answer} is the marker that evaluation looks for."""
    batch: BatchSpec
    """Batch sizes and packing."""
    optimizer: OptimizerSpec = OptimizerSpec()
    """AdamW and its schedule."""
    epochs: float | None = Field(default=None, gt=0)
    """Passes over the training set. None: `steps` says how long; one of the two must be given."""
    steps: int | None = Field(default=None, ge=1)
    """Optimizer steps. None: `epochs` says how long."""
    loss: LossRule = LossRule.GLOBAL_TOKEN_MEAN
    """global_token_mean divides by the labelled tokens of the whole global batch; micro_batch_mean, the
    original's, takes a mean for each padded micro-batch and then the mean of those."""
    precision: Precision = Precision.BFLOAT16
    """What the frozen model computes in."""
    zero: ZeroSpec = ZeroSpec()
    """Sharing of the optimizer's state."""
    speed: SpeedSpec = SpeedSpec()
    """Faster ways to the same training."""
    gradient_checkpointing: bool | None = None
    """Compute the language model's activations twice instead of keeping them: less memory, about a third slower. None:
    only if without it not even the smallest micro-batch of batch.fitMemory fits into the GPU's memory, which is found
    by trying; without a GPU never."""
    validation: ValidationSpec | None = None
    """None: no validation, and then there is no best checkpoint."""
    workers: int = Field(default=2, ge=0)
    """Processes a rank that decode and tile images. 0: in the training process itself."""
    log_every_steps: int = Field(default=10, ge=1)
    """Optimizer steps between two lines of metrics.jsonl."""
    tensorboard: bool = False
    """Write TensorBoard event files beside metrics.jsonl."""
    checkpoints: CheckpointSpec = CheckpointSpec()
    """Saving and keeping."""
    stall_minutes: float | None = Field(default=30.0, gt=0)
    """Minutes without a finished step after which an attempt counts as hung and is ended, to be retried. Before the
    first step has ended (loading, compiling) and after the last one it is three times as long. None: never. 30 is
    far more than a step takes, and as long as torch lets a collective wait."""
    deadline_minutes: float | None = Field(default=None, gt=0)
    """Longest running time of the stage over all attempts. None: no limit."""

    @model_validator(mode="after")
    def _check_together(self) -> Self:
        refuse(self, [*_check_length_of_training(self), *_check_batch(self), *_check_speed(self)])
        return self

    @property
    def accumulation(self) -> int:
        """Padded micro-batches of one rank in one optimizer step."""
        return self.batch.global_size // (self.batch.per_device * self.ranks)


def _check_length_of_training(train: TrainSpec) -> list[BrokenRule]:
    if train.epochs is None and train.steps is None:
        return [BrokenRule(place=("epochs",), what="is missing, and so is steps", remedy="Give one of the two.")]
    if train.epochs is not None and train.steps is not None:
        return [BrokenRule(place=("epochs",), what="is given, and so is steps", remedy="Keep one of the two.")]
    return []


def _check_speed(train: TrainSpec) -> list[BrokenRule]:
    broken = []
    if train.speed.labels_only is False and train.speed.fused_loss:
        broken.append(
            BrokenRule(
                place=("speed", "fusedLoss"),
                what="makes logits only at labels, which labelsOnly turns off",
                remedy="Remove one of the two.",
            )
        )
    if train.batch.packed_tokens is not None:
        return broken
    return broken + [
        BrokenRule(
            place=("speed", field.alias or name),
            what="is for packed micro-batches only",
            remedy="Set batch.packedTokens, or remove this.",
        )
        for name, field in SpeedSpec.model_fields.items()
        if name not in WAYS_OF_ANY_BATCH and getattr(train.speed, name)
    ]


def _check_batch(train: TrainSpec) -> list[BrokenRule]:
    batch = train.batch
    if batch.packed_tokens is None:
        if batch.global_size % (batch.per_device * train.ranks):
            return [
                BrokenRule(
                    place=("batch", "globalSize"),
                    what=f"{batch.global_size} is not a multiple of perDevice x ranks "
                    f"({batch.per_device} x {train.ranks}): it would not be the batch you asked for",
                    remedy="Change one of the three.",
                )
            ]
        return []
    broken = []
    if train.loss is LossRule.MICRO_BATCH_MEAN:
        broken.append(
            BrokenRule(
                place=("loss",),
                what="micro_batch_mean needs padded micro-batches",
                remedy="Remove batch.packedTokens, or use global_token_mean.",
            )
        )
    if batch.packed_tokens < train.max_length:
        broken.append(
            BrokenRule(
                place=("batch", "packedTokens"),
                what=f"{batch.packed_tokens} is less than maxLength ({train.max_length}): "
                "the longest sample would fit in no micro-batch",
                remedy="Raise packedTokens or lower maxLength.",
            )
        )
    if batch.global_size < train.ranks:
        broken.append(
            BrokenRule(
                place=("batch", "globalSize"),
                what=f"{batch.global_size} is less than ranks ({train.ranks}): some ranks would have no sample",
                remedy="Raise globalSize or use fewer ranks.",
            )
        )
    return broken
