"""Load the model libraries: without their bars and advice in the logs, and in a fifth less time."""

from __future__ import annotations

import gc
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager


def load_libraries() -> None:
    """Import torch and transformers, and have them, accelerate and DeepSpeed say only what is wrong."""
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    os.environ["TRANSFORMERS_VERBOSITY"] = "error"
    os.environ["ACCELERATE_LOG_LEVEL"] = "ERROR"
    warnings.filterwarnings("ignore", category=FutureWarning)  # between libraries
    with importing_much():
        import torch

        if not torch.cuda.is_available():
            os.environ["DS_ACCELERATOR"] = "cpu"
        import transformers.modeling_utils  # noqa: F401 - most of transformers, which loads it at the first use
        from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()  # type: ignore[no-untyped-call]


@contextmanager
def importing_much() -> Iterator[None]:
    """Collect no garbage while large libraries are imported, and never look through what they keep.

    There is nothing to collect, and of a start of transformers the looking takes a sixth.
    """
    collects = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        if collects:
            gc.enable()
