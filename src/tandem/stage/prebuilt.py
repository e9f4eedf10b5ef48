"""What an image without a C compiler brings along, put where it is looked for."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path


def offer_prebuilt(environment: Mapping[str, str]) -> None:
    """Copy what TANDEM_TRITON holds into Triton's cache folder, where both are set (images/prebuild_triton.py).

    The cache is also written to, so an image's own folder, which is read-only, cannot be it.
    """
    prebuilt, cache = environment.get("TANDEM_TRITON"), environment.get("TRITON_CACHE_DIR")
    if prebuilt and cache:
        shutil.copytree(Path(prebuilt), Path(cache), dirs_exist_ok=True)
