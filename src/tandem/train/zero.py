"""DeepSpeed's configuration, made from the Run file."""

from __future__ import annotations

from typing import Any

from tandem.spec import TrainSpec


def describe_zero(train: TrainSpec) -> dict[str, Any] | None:
    """The ZeRO-1 configuration, or None for stage 0, which needs no DeepSpeed.

    Neither bf16 nor an optimizer is named: the frozen model keeps the precision that it was loaded in and the
    adapter its own (DeepSpeed's bf16 would cast the adapter too), and the optimizer is torch's, which compiles
    nothing. Micro-batches are counted by the trainer, so accumulation is 1 here.
    """
    if train.zero.stage == 0:
        return None
    return {
        "train_micro_batch_size_per_gpu": 1,
        "gradient_accumulation_steps": 1,
        "train_batch_size": train.ranks,
        "gradient_clipping": train.optimizer.clip_norm or 0.0,
        "zero_optimization": {
            "stage": train.zero.stage,
            "reduce_bucket_size": train.zero.bucket_elements,
            "allgather_bucket_size": train.zero.bucket_elements,
            "overlap_comm": False,
        },
        "zero_allow_untested_optimizer": True,
        "wall_clock_breakdown": False,
        "steps_per_print": 2**31,
    }


def avoid_compilation() -> None:
    """Keep DeepSpeed from compiling what a LoRA training never uses; call it before the engine is made.

    Its Muon optimizer, imported only to be compared with ours, loads torch's compiler for its decorators: 8 s and
    more. Its shared-memory collectives on a CPU take minutes to build, and leave a lock that hangs the next run if
    they are killed.
    """
    import deepspeed
    import torch
    from deepspeed.runtime import compiler

    compiling = compiler.compile
    compiler.compile = lambda *_, **__: lambda function: function
    try:
        import deepspeed.runtime.zero.muon.muon_optimizer
    except ImportError:  # versions without it do not compile it either
        pass
    finally:
        compiler.compile = compiling
    if not torch.cuda.is_available():
        deepspeed.ops.__compatible_ops__ = {}  # none is: else it would look for compilers to find out
