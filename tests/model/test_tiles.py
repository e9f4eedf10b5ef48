import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from tandem.model.tiles import (
    INTERNVL_TILES,
    BudgetRule,
    choose_grid,
    count_tiles,
    cut_tiles,
    normalise,
    tile_budget,
    tokens_per_tile,
)

GOLDEN = Path(__file__).parents[1] / "golden" / "internvl"
CHIRON = Path(__file__).parents[2].parent / "shared" / "data" / "chiron-eval"
"""Real evaluation images, which lie beside some checkouts and belong to none."""

GRIDS = json.loads((GOLDEN / "grids.json").read_bytes())
TILES = json.loads((GOLDEN / "tiles.json").read_bytes())
SIZES = json.loads((GOLDEN / "chiron_sizes.json").read_bytes())

sides = st.integers(1, 5000)


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


@pytest.mark.parametrize("max_tiles", GRIDS["grids"])
def test_grids_are_those_of_the_original(max_tiles: str) -> None:
    found = [list(choose_grid(*size, max_tiles=int(max_tiles))) for size in GRIDS["sizes"]]
    assert found == GRIDS["grids"][max_tiles]


def test_grids_of_thousands_of_sizes_are_those_of_the_original() -> None:
    digest = hashlib.sha256()
    for most in GRIDS["digest"]["max_tiles"]:
        for width in range(16, 1500, 17):
            for height in range(16, 1500, 17):
                columns, rows = choose_grid(width, height, max_tiles=most)
                digest.update(f"{width} {height} {most} {columns} {rows}\n".encode())
    assert digest.hexdigest() == GRIDS["digest"]["sha256"]


@given(sides, sides, st.integers(1, 4), st.integers(0, 20), st.sampled_from([28, 448]))
def test_a_grid_is_the_nearest_one_and_of_equally_near_ones_the_largest_that_the_image_half_fills(
    width: int, height: int, min_tiles: int, more: int, tile_size: int
) -> None:
    max_tiles = min_tiles + more
    every = [(i, j) for i in range(1, max_tiles + 1) for j in range(1, max_tiles + 1)]
    allowed = sorted((g for g in every if min_tiles <= g[0] * g[1] <= max_tiles), key=lambda g: g[0] * g[1])

    def distance(grid: tuple[int, int]) -> float:
        return abs(width / height - grid[0] / grid[1])

    nearest = [grid for grid in allowed if distance(grid) == min(map(distance, allowed))]
    filled = [g for g in nearest[1:] if width * height > g[0] * g[1] * tile_size**2 / 2]
    expected = (filled or nearest[:1])[-1]
    assert choose_grid(width, height, min_tiles=min_tiles, max_tiles=max_tiles, tile_size=tile_size) == expected


def test_a_square_gets_more_tiles_only_when_it_is_large_enough_for_them() -> None:
    assert choose_grid(633, 633, max_tiles=12) == (1, 1)
    assert choose_grid(634, 634, max_tiles=12) == (2, 2)
    assert choose_grid(951, 951, max_tiles=12) == (3, 3)
    assert choose_grid(951, 951, max_tiles=8) == (2, 2)


@pytest.mark.parametrize(("fewest", "most"), [(0, 4), (3, 2)])
def test_an_impossible_budget_is_refused(fewest: int, most: int) -> None:
    with pytest.raises(ValueError, match="min_tiles"):
        choose_grid(10, 10, min_tiles=fewest, max_tiles=most)


@pytest.mark.parametrize("case", TILES["cases"], ids=lambda c: f"{c['image']}-{c['tile_size']}-{c['max_tiles']}")
def test_tiles_and_their_tensors_are_bit_for_bit_those_of_the_original(case: dict[str, Any]) -> None:
    tile_size = case["tile_size"]
    image = Image.open(GOLDEN / "images" / case["image"]).convert("RGB")
    tiles = cut_tiles(image, max_tiles=case["max_tiles"], tile_size=tile_size)
    assert [sha256(tile.tobytes()) for tile in tiles] == case["tiles"]
    tensor = normalise(tiles, tile_size=tile_size)
    assert tensor.shape == (len(tiles), 3, tile_size, tile_size)
    assert [sha256(part.numpy().tobytes()) for part in tensor] == case["normalised"]


@given(st.integers(1, 90), st.integers(1, 90), st.integers(1, 7), st.booleans())
def test_tiles_are_counted_without_cutting(width: int, height: int, max_tiles: int, thumbnail: bool) -> None:
    tiles = cut_tiles(Image.new("RGB", (width, height)), max_tiles=max_tiles, tile_size=14, thumbnail=thumbnail)
    assert {tile.size for tile in tiles} == {(14, 14)}
    assert count_tiles(width, height, max_tiles=max_tiles, tile_size=14, thumbnail=thumbnail) == len(tiles)
    assert len(tiles) <= max_tiles + (thumbnail and len(tiles) > 1)


def test_no_tiles_are_an_empty_tensor() -> None:
    assert normalise([], tile_size=56).shape == (0, 3, 56, 56)


@given(st.integers(1, 40), st.integers(1, 40))
def test_a_budget_a_sample_is_shared_by_its_images_and_leaves_each_one_tile(max_tiles: int, images: int) -> None:
    each = tile_budget("per_sample", max_tiles, images)
    assert each >= 1
    assert each * images <= max(max_tiles, images)
    assert (each + 1) * images > max_tiles
    assert tile_budget("per_image", max_tiles, images) == max_tiles


def test_a_tile_of_internvl_takes_256_tokens() -> None:
    assert tokens_per_tile(448, 14, 0.5) == INTERNVL_TILES.tokens_per_tile == 256
    assert tokens_per_tile(56, 14, 0.5) == 4


@pytest.mark.parametrize(
    ("use", "rule", "max_tiles", "total"),
    [("training", "per_sample", 6, 45), ("evaluation", "per_image", 12, 159)],
)
def test_the_ten_real_samples_have_the_tiles_that_the_original_counts(
    use: str, rule: BudgetRule, max_tiles: int, total: int
) -> None:
    counts = [
        [count_tiles(*size, max_tiles=tile_budget(rule, max_tiles, len(sample["sizes"]))) for size in sample["sizes"]]
        for sample in SIZES["samples"]
    ]
    assert counts == [sample[use] for sample in SIZES["samples"]]
    assert sum(map(sum, counts)) == SIZES[use] == total
    assert sum(map(len, counts)) == 31


def test_the_list_of_real_sizes_is_that_of_the_images_where_they_are_at_hand() -> None:
    assert [sample["id"] for sample in SIZES["samples"]] == list(range(1, 11))
    items = json.loads((CHIRON / "eval_data.json").read_bytes()) if CHIRON.is_dir() else []
    for item, sample in zip(items, SIZES["samples"], strict=bool(items)):
        names = item["img_name"] if isinstance(item["img_name"], list) else [item["img_name"]]
        assert [list(Image.open(CHIRON / name).size) for name in names] == sample["sizes"]
