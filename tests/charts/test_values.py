from __future__ import annotations

import pytest

from charts.readme import read_values
from tests.charts.helm import MINIMAL, merged, nested, render
from tests.charts.pairs import Pair
from tests.charts.places import CHART
from tests.charts.values_of_controller import ACCOUNTS, CONTROLLERS
from tests.charts.values_of_profiles import PROFILES
from tests.charts.values_of_surroundings import MONITORING, NAMES, NETWORK
from tests.charts.values_of_world import IMAGES, STORE_AND_WORLD

PAIRS = [*STORE_AND_WORLD, *IMAGES, *PROFILES, *CONTROLLERS, *ACCOUNTS, *NETWORK, *MONITORING, *NAMES]


@pytest.mark.parametrize("pair", PAIRS, ids=lambda pair: pair.path)
def test_a_value_does_what_it_says_and_without_it_nothing_is_there(pair: Pair) -> None:
    without = merged(MINIMAL, pair.given)
    assert pair.look(render(without)) == pair.unset
    assert pair.look(render(merged(without, nested(pair.path, pair.value)))) == pair.set


def test_every_value_of_the_chart_has_such_a_pair() -> None:
    shown = {pair.path for pair in PAIRS}
    # Those that only change with others are shown on a profile that has them; they are the same keys.
    shown |= {f"profileDefaults.{pair.path.split('.')[2]}" for pair in PAIRS if pair.path.startswith("profiles.")}
    values = read_values((CHART / "values.yaml").read_text(encoding="utf-8"))
    described = {".".join(value.path) for value in values if value.words} - {
        ".".join(value.path) for value in values if value.path[0] == "profiles"
    }
    assert described - shown == set()
    assert shown - described <= {pair.path for pair in PAIRS if pair.path.startswith("profiles.")}
