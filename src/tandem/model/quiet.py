"""Keep the model libraries from drawing bars and printing advice into logs."""

from __future__ import annotations

import os
import warnings


def be_quiet() -> None:
    """Have transformers, accelerate and DeepSpeed say only what is wrong; loads torch and transformers."""
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    os.environ["TRANSFORMERS_VERBOSITY"] = "error"
    os.environ["ACCELERATE_LOG_LEVEL"] = "ERROR"
    warnings.filterwarnings("ignore", category=FutureWarning)  # between libraries
    import torch

    if not torch.cuda.is_available():
        os.environ["DS_ACCELERATOR"] = "cpu"
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()  # type: ignore[no-untyped-call]
