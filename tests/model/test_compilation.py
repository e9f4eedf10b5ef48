from __future__ import annotations

import subprocess
import sys

import torch

from tandem.model.compilation import Compilation, read_compilation


def double(x: torch.Tensor) -> torch.Tensor:
    return x * 2


def test_a_function_compiled_for_two_shapes_was_compiled_again_once() -> None:
    torch.compiler.reset()
    before = read_compilation()
    compiled = torch.compile(double, backend="eager", dynamic=False)
    compiled(torch.ones(2))
    first = read_compilation()
    assert (first.since(before).graphs, first.since(before).recompilations) == (1, 0)
    assert first.since(before).seconds > 0
    compiled(torch.ones(2))
    assert read_compilation() == first
    compiled(torch.ones(3))
    after = read_compilation()
    assert (after.since(before).graphs, after.since(before).recompilations) == (2, 1)
    assert after.seconds > first.seconds


def test_a_process_that_compiles_nothing_loads_no_compiler_to_say_so() -> None:
    program = (
        "import sys, torch; from tandem.model.compilation import Compilation, read_compilation; "
        "assert read_compilation() == Compilation(); assert 'torch._dynamo.convert_frame' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", program], check=True)


def test_nothing_since_is_nothing() -> None:
    one = Compilation(seconds=1.5, graphs=3, recompilations=2)
    assert one.since(one) == Compilation()
