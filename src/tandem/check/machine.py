"""The machine and what it can reach: the judge's key, BERTScore's model, the store, the GPUs and their memory."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any, NamedTuple

from tandem.check.base import Base
from tandem.check.lengths import Lengths
from tandem.check.memory import MemoryEstimate, estimate_generation, estimate_training
from tandem.check.report import Collector, Severity
from tandem.check.sources import Sources
from tandem.inputs.references import PACKAGED_ENCODERS
from tandem.spec import EvalSpec, JudgeKind, TrainSpec
from tandem.spec.run import RunSpec
from tandem.store import open_store, probe
from tandem.train.fitting import find_fit, list_sizes

GIB = 2**30
TIGHT = 0.9
"""From this share of the GPU's memory on, an estimate is a warning: allocators leave gaps."""
HOPELESS = 1.25
"""From this share on it is a fault: the formula was within 20 % where it was compared with a GPU.
Where it was not, it stays a warning."""


def check_judge_keys(spec: RunSpec, environment: Mapping[str, str], findings: Collector) -> None:
    """Report evaluations whose judge needs a key that the environment does not hold. The key is not shown."""
    for evaluation in spec.evals:
        judge = evaluation.judge
        if judge.kind is JudgeKind.OPENAI and not environment.get(judge.key_env, "").strip():
            findings.add(
                "judge-key-missing",
                where=f"spec.evals[{evaluation.name}].judge.keyEnv",
                what=f"the environment variable {judge.key_env} is not set or blank",
                remedy=f"export {judge.key_env}=... (for a server that wants no key, any text), or use kind: exact.",
            )


def check_encoders(spec: RunSpec, sources: Sources, findings: Collector) -> None:
    """Report BERTScore models that are not there."""
    for evaluation in spec.evals:
        encoder = evaluation.bert_score
        if encoder is None or encoder.model in PACKAGED_ENCODERS:
            continue
        place = f"spec.evals[{evaluation.name}].bertScore.model"
        with findings.catching("encoder-unavailable", prefix=place):
            if sources.resolve(encoder.model, encoder.revision) is None:
                findings.add(
                    "encoder-missing",
                    where=f"{place}: {encoder.model}",
                    what="is not on this machine",
                    remedy="Mend the path, add bertScore.revision for a model of the hub, or use model: minilm.",
                )


def check_store(url: str | None, findings: Collector) -> None:
    """Report a store that cannot be written or does not keep its word. None: there is none to look at."""
    if url is not None:
        with findings.catching("store-unusable", prefix="store"):
            probe(open_store(url, brief=True))


def check_gpus(train: TrainSpec, gpus: int, findings: Collector) -> None:
    """Report more ranks than GPUs; without any GPU the ranks share the processor, slowly but rightly."""
    if 0 < gpus < train.ranks:
        findings.add(
            "ranks-exceed-gpus",
            where="spec.train.ranks",
            what=f"{train.ranks} ranks need as many GPUs, but this machine has {gpus}",
            remedy="Lower ranks (globalSize may stay as it is), or run it on a machine with more GPUs.",
        )


def check_training_memory(
    train: TrainSpec, base: Base, lengths: Lengths | None, gpu_memory: int | None, findings: Collector
) -> dict[str, Any] | None:
    """Estimate what training needs on one GPU and compare it; None while the model is not known.

    Where training will try what fits, so does this, with estimates: what it then names is what will be tried last.
    """
    if base.info is None:
        return None
    info, samples = base.info, _describe_samples(train, lengths)

    def estimate(tokens: int, checkpointed: bool) -> MemoryEstimate:
        labelled = round(tokens * samples.labelled)
        settings = train.model_copy(update={"gradient_checkpointing": checkpointed})
        return estimate_training(info, settings, tokens=tokens, labelled=labelled)

    tried = find_fit(
        lambda tokens, checkpointed: estimate(tokens, checkpointed).total,
        sizes=list_sizes(train, longest=samples.longest),
        checkpointing=train.gradient_checkpointing,
        room=sys.maxsize if gpu_memory is None else int(TIGHT * gpu_memory),
    )
    tokens, checkpointed = tried[-1].tokens, tried[-1].checkpointed
    expected = estimate(tokens, checkpointed)
    remedy = "Remove gradientCheckpointing: false, lower" if not checkpointed else "Lower"
    remedy = f"{remedy} maxLength, batch.packedTokens or batch.perDevice, or use a larger GPU."
    _compare("spec.train", expected, gpu_memory, remedy, findings)
    return {"micro_batch_tokens": tokens, "checkpointed": checkpointed, **_describe(expected)}


def check_generation_memory(
    evaluation: EvalSpec, base: Base, longest: int | None, gpu_memory: int | None, findings: Collector
) -> dict[str, Any] | None:
    """Estimate what generation needs on one GPU and compare it; None while the model is not known."""
    if base.info is None:
        return None
    single = (longest or 0) + evaluation.max_new_tokens
    tokens = max(evaluation.batch_tokens, single)
    estimate = estimate_generation(
        base.info, precision=evaluation.precision, tokens=tokens, sequences=max(1, tokens // single)
    )
    remedy = "Lower batchTokens, maxNewTokens or tiles.max, or use a larger GPU."
    _compare(f"spec.evals[{evaluation.name}]", estimate, gpu_memory, remedy, findings)
    return {"batch_tokens": tokens, **_describe(estimate)}


class _Samples(NamedTuple):
    longest: int
    """Tokens."""
    labelled: float
    """Share of a micro-batch's tokens that have a label."""


def _describe_samples(train: TrainSpec, lengths: Lengths | None) -> _Samples:
    """What a micro-batch is made of; half of it labelled where nothing was measured."""
    fitting = [one for one in (lengths.by_line.values() if lengths else ()) if one.tokens <= train.max_length]
    if not fitting:
        return _Samples(train.max_length, 0.5)
    longest = max(one.tokens for one in fitting)
    if train.batch.packed_tokens is None:
        return _Samples(longest, max(one.labelled for one in fitting) / longest)
    return _Samples(longest, sum(one.labelled for one in fitting) / sum(one.tokens for one in fitting))


def _compare(where: str, estimate: MemoryEstimate, gpu_memory: int | None, remedy: str, findings: Collector) -> None:
    if gpu_memory is None or estimate.total <= TIGHT * gpu_memory:
        return
    findings.add(
        "gpu-memory",
        where=where,
        what=f"about {estimate.total / GIB:.1f} GiB are needed on a GPU with {gpu_memory / GIB:.1f} GiB "
        f"(weights {estimate.weights / GIB:.1f}, adapter {estimate.adapter / GIB:.1f}, "
        f"activations {estimate.activations / GIB:.1f}, logits {estimate.logits / GIB:.1f})"
        + ("" if estimate.sure else "; this way was never measured, so it may be less"),
        remedy=remedy,
        severity=Severity.FAULT if estimate.sure and estimate.total > HOPELESS * gpu_memory else Severity.WARNING,
    )


def _describe(estimate: MemoryEstimate) -> dict[str, int]:
    return {
        "weights": estimate.weights,
        "adapter": estimate.adapter,
        "activations": estimate.activations,
        "logits": estimate.logits,
        "total": estimate.total,
    }
