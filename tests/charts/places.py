"""Where the charts are."""

from __future__ import annotations

from pathlib import Path

ROOT = Path(__file__).parents[2]
CHART = ROOT / "charts" / "tandem"
CRD_CHART = ROOT / "charts" / "tandem-crds"
