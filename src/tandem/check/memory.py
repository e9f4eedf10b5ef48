"""How much GPU memory a stage will need, before anything is loaded.

Training, bytes on one rank:
  weights      parameters x 2 (bfloat16) or 4 (float32)
  adapter      its parameters x (weight + gradient) + AdamW's float32 copy and two means (12), the latter shared
               among the ranks under ZeRO-1; and two reduction buckets
  activations  tokens of a micro-batch x layers x bytes a token and layer: (8 hidden + 4 intermediate) values, and
               for each adapted matrix its input once more where dropout or another number format makes a copy.
               In the fused way (tandem.model.fused_decoder) less, see _fused_layer_bytes.
               With checkpointing: one layer of that, twice but in the fused way, and hidden values for every layer
  logits       labelled tokens x vocabulary, but at most the 2^26 values that are made at once, x (float32 + its
               gradient + the model's own format)
Against one H200 (InternVL3-2B's geometry, bfloat16, rank 16, no ZeRO) this gives 48, 91 and 27 GB where 44, 84 and 24
were measured: packed to 8,192 and 16,384 tokens with float32 adapter and dropout; to 8,192 with bfloat16 adapter
without dropout. With checkpointing 7 where 9 were measured, but that made all labelled logits at once.
The fused way, with the figures of docs/benchmarks.md: 2B 32.0 and 18.5 GB where 32.7 and 18.6 were measured, 8B 76.9
where 77.4 were; layers not compiled, 2B 34.9 where 35.7 were; with checkpointing, 2B 7.3, 6.1 and 5.5 where 7.4, 6.0
and 5.2 were (16,384, 8,192 and 4,096 tokens).

Generation: weights, and for each token of a batch its keys and values in every layer (twice: the cache grows by
copying) and one layer's activations.
"""

from __future__ import annotations

from dataclasses import dataclass

from tandem.model.info import ModelInfo
from tandem.spec import Precision, TrainSpec
from tandem.spec.train import LANGUAGE_MODEL_PROJECTIONS
from tandem.train.memory import BYTES, count_training_bytes
from tandem.train.speed import decide_ways

_FLOAT32 = 4
LOGITS_AT_ONCE = 2**26
"""As in tandem.model.internvl, which needs torch."""


@dataclass(frozen=True, kw_only=True)
class MemoryEstimate:
    """Bytes on one GPU, by what holds them."""

    weights: int
    adapter: int
    activations: int
    logits: int
    sure: bool = True
    """Whether it was compared with a GPU's figures; if not, it is no reason to refuse a Run."""

    @property
    def total(self) -> int:
        """All of it (bytes)."""
        return self.weights + self.adapter + self.activations + self.logits


def count_adapter_parameters(info: ModelInfo, train: TrainSpec) -> int:
    """Count the LoRA weights that train: for each target matrix r x (inputs + outputs), in every layer."""
    sizes = _matrix_sizes(info)
    per_layer = sum(sum(sizes[name]) for name in train.lora.targets if name in sizes)
    return train.lora.r * per_layer * info.text_layers


def estimate_training(info: ModelInfo, train: TrainSpec, *, tokens: int, labelled: int) -> MemoryEstimate:
    """Estimate one rank's memory for a micro-batch of `tokens` tokens, `labelled` of them with a label.

    Checkpointed only if train says so: None does not.
    """
    value = BYTES[train.precision]
    parameters = count_adapter_parameters(info, train)
    fused = _is_fused(train)
    layer = _fused_layer_bytes(info, train) if fused else _layer_bytes(info, train)
    if train.gradient_checkpointing:
        computed_again = layer if fused else 2 * layer
        activations = tokens * (computed_again + info.text_layers * info.text_hidden_size * value)
    else:
        activations = tokens * info.text_layers * layer
    predicted = labelled if decide_ways(train, cuda=True)["labels_only"] else tokens
    return MemoryEstimate(
        weights=info.parameters * value,
        adapter=parameters * BYTES[train.lora.dtype] + count_training_bytes(parameters, train),
        activations=activations,
        logits=min(predicted * info.vocab_size, LOGITS_AT_ONCE) * (2 * _FLOAT32 + value),
        sure=not fused or _is_fused_as_measured(info, train),
    )


def estimate_generation(info: ModelInfo, *, precision: Precision, tokens: int, sequences: int) -> MemoryEstimate:
    """Estimate the memory of generating with a batch of `tokens` tokens, prompts and new ones, in `sequences`."""
    value = BYTES[precision]
    head = info.text_hidden_size // info.text_heads
    cache = 2 * info.text_layers * 2 * info.text_kv_heads * head * value
    layer = (8 * info.text_hidden_size + 4 * info.text_intermediate_size) * value
    return MemoryEstimate(
        weights=info.parameters * value,
        adapter=0,
        activations=tokens * (cache + layer),
        logits=sequences * info.vocab_size * (_FLOAT32 + value),
    )


def _is_fused(train: TrainSpec) -> bool:
    """Whether training with a GPU takes the fused way: what choose_speed and why_not_fused ask, as a Run tells it."""
    return decide_ways(train, cuda=True)["fused_lora"] and set(LANGUAGE_MODEL_PROJECTIONS) <= set(train.lora.targets)


def _is_fused_as_measured(info: ModelInfo, train: TrainSpec) -> bool:
    return info.text_model == "qwen2" and train.precision is Precision.BFLOAT16


def _fused_layer_bytes(info: ModelInfo, train: TrainSpec) -> int:
    """Bytes that one token leaves in one decoder layer for the backward pass of fused_decoder.run_layer.

    Values: the layer's input, input and output of query, key and value, query and key rotated, what was attended,
    the sum with it, the MLP's input, its gate and up; and what each adapter's first matrix gives. Not compiled, the
    two norms keep their inputs in float32. Beside them float32 numbers: one a head and one a norm.
    """
    value = BYTES[train.precision]
    hidden, key = info.text_hidden_size, info.text_hidden_size // info.text_heads * info.text_kv_heads
    values = 5 * hidden + 3 * key + 2 * info.text_intermediate_size + len(LANGUAGE_MODEL_PROJECTIONS) * train.lora.r
    norms = 2 * hidden * (value if decide_ways(train, cuda=True)["compiled"] else _FLOAT32)
    return values * value + norms + (info.text_heads + 2) * _FLOAT32


def _matrix_sizes(info: ModelInfo) -> dict[str, tuple[int, int]]:
    hidden, inner = info.text_hidden_size, info.text_intermediate_size
    kv = hidden // info.text_heads * info.text_kv_heads
    return {
        "q_proj": (hidden, hidden),
        "k_proj": (hidden, kv),
        "v_proj": (hidden, kv),
        "o_proj": (hidden, hidden),
        "gate_proj": (hidden, inner),
        "up_proj": (hidden, inner),
        "down_proj": (inner, hidden),
    }


def _layer_bytes(info: ModelInfo, train: TrainSpec) -> int:
    """Bytes that one token leaves in one decoder layer for the backward pass."""
    value, adapter_value = BYTES[train.precision], BYTES[train.lora.dtype]
    sizes = _matrix_sizes(info)
    inputs = sum(sizes[name][0] for name in train.lora.targets if name in sizes)
    copied = train.lora.dropout > 0 or adapter_value != value
    copies = inputs * (adapter_value * copied + (train.lora.dropout > 0))
    return (8 * info.text_hidden_size + 4 * info.text_intermediate_size) * value + copies
