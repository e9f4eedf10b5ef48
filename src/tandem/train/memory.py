"""What training holds on a GPU beside weights and activations."""

from __future__ import annotations

from tandem.spec import Precision, TrainSpec

BYTES = {Precision.FLOAT32: 4, Precision.BFLOAT16: 2}
"""Of one value."""
_OPTIMIZER_BYTES = 12
_BUCKETS = 2


def count_training_bytes(parameters: int, train: TrainSpec) -> int:
    """Bytes on one rank that come with so many weights that learn, without themselves: their gradients, AdamW's
    float32 copy and two means (shared among the ranks under ZeRO-1), and two reduction buckets.
    """
    value = BYTES[train.lora.dtype]
    sharing = train.ranks if train.zero.stage == 1 else 1
    buckets = _BUCKETS * min(train.zero.bucket_elements, parameters) * value
    return parameters * value + parameters * _OPTIMIZER_BYTES // sharing + buckets
