"""Builds what Triton would compile with a C compiler at its first launch, so that an image needs none.

Triton compiles GPU kernels by itself, but the module that loads and starts them is C code which it builds where it runs
(triton.runtime.build, Triton 3.7). Here it is built into a cache folder, under the name that Triton looks for.
Usage: TRITON_CACHE_DIR=FOLDER python prebuild_triton.py
"""

from __future__ import annotations

import hashlib
import subprocess
import sysconfig
import tempfile
from pathlib import Path

import triton
from triton.runtime.build import _build, platform_key
from triton.runtime.cache import get_cache_manager

NAME = "cuda_utils"
SUFFIX = sysconfig.get_config_var("EXT_SUFFIX")


def main() -> None:
    """Compile, and put the result where Triton looks."""
    backend = Path(triton.__file__).parent / "backends" / "nvidia"
    source = (backend / "driver.c").read_text()
    with tempfile.TemporaryDirectory() as room:
        # The driver's own library is on machines with a GPU only: linking needs no more than its name.
        driver = Path(room, "libcuda.so.1")
        subprocess.run(
            ["gcc", "-shared", "-Wl,-soname,libcuda.so.1", "-x", "c", "/dev/null", "-o", str(driver)], check=True
        )
        code = Path(room, f"{NAME}.c")
        code.write_text(source)
        include = [str(backend / "include")]
        built = _build(NAME, str(code), room, [str(backend / "lib"), room], include, ["libcuda.so.1"], [])
        body = Path(built).read_bytes()
    cache = get_cache_manager(hashlib.sha256((source + platform_key()).encode()).hexdigest())
    cache.put(body, f"{NAME}{SUFFIX}", binary=True)


if __name__ == "__main__":
    main()
