"""The model that a Run starts from, and how images become tiles."""

from __future__ import annotations

from enum import StrEnum

from pydantic import Field

from tandem.spec.base import Section


class Precision(StrEnum):
    """The number format that the model computes in."""

    FLOAT32 = "float32"
    BFLOAT16 = "bfloat16"


class TileRule(StrEnum):
    """How a tile budget is shared among the images of one sample."""

    PER_SAMPLE = "perSample"
    PER_IMAGE = "perImage"


class ModelSpec(Section):
    """Which InternVL checkpoint, in the native format of transformers (see `tandem convert`)."""

    source: str = Field(min_length=1)
    """A folder (relative to the Run file), a hub id such as OpenGVLab/InternVL3-2B-hf, or an s3:// URI."""
    revision: str | None = None
    """The hub's commit. None is allowed for folders and s3:// URIs only: a hub's branch can move."""
    digest: str | None = Field(default=None, pattern=r"^sha256:[0-9a-f]{64}$")
    """The expected digest of the model's files, as `tandem check` prints it. None: record what is found."""
    adapter: str | None = None
    """An existing adapter (folder or s3:// URI) to evaluate in a Run without training. None: there is none."""


class TilesSpec(Section):
    """How many 448-pixel tiles the images of a sample are cut into."""

    max: int = Field(ge=1, le=128)
    """Tiles (count), the thumbnail not included. There is no default: training and evaluation must agree on it."""
    rule: TileRule = TileRule.PER_SAMPLE
    """perSample shares `max` among a sample's images, at least one each, as the original trains; perImage gives
    each image `max`, as the original evaluates."""
    thumbnail: bool = True
    """Add a thumbnail of the whole image when it is cut into more than one tile, as InternVL was trained."""
