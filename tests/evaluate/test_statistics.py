from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tandem.evaluate.statistics import (
    TINY_CASES,
    Metric,
    Observation,
    StatisticsSettings,
    mean_with_interval,
    wilson,
)

FEW = StatisticsSettings(resamples=200)
observations = st.lists(
    st.builds(Observation, case=st.integers(0, 30), value=st.sampled_from([0.0, 0.25, 0.5, 1.0])), max_size=60
)


def of_cases(*values: float, settings: StatisticsSettings = FEW, bounded: bool = True) -> Metric:
    items = [Observation(case=index, value=value) for index, value in enumerate(values)]
    return mean_with_interval(items, settings, bounded=bounded)


def ends(metric: Metric) -> tuple[float, float]:
    assert metric.low is not None
    assert metric.high is not None
    return metric.low, metric.high


def test_without_samples_there_is_no_value() -> None:
    assert of_cases() == Metric(value=None, low=None, high=None, n=0)


@settings(deadline=None)
@given(observations)
def test_the_interval_holds_the_mean_and_stays_in_range(items: list[Observation]) -> None:
    metric = mean_with_interval(items, FEW)
    if items:
        low, high = ends(metric)
        assert metric.value is not None
        assert 0 <= low <= metric.value <= high <= 1
        assert metric.value == pytest.approx(sum(item.value for item in items) / len(items))
        assert metric.n == len(items)


@settings(deadline=None)
@given(observations, st.randoms(use_true_random=False))
def test_neither_order_nor_the_names_of_cases_play_a_part(items: list[Observation], shuffler: random.Random) -> None:
    renamed = [Observation(case=f"case {100 - int(str(item.case))}", value=item.value) for item in items]
    shuffler.shuffle(renamed)
    assert mean_with_interval(renamed, FEW) == mean_with_interval(items, FEW)


def test_the_same_seed_gives_the_same_interval_and_another_seed_another() -> None:
    values = [float(index % 3 == 0) for index in range(40)]
    assert of_cases(*values) == of_cases(*values)
    assert of_cases(*values) != of_cases(*values, settings=StatisticsSettings(resamples=200, seed=1))


@pytest.mark.parametrize("value", [0.0, 1.0])
def test_all_right_or_all_wrong_is_not_taken_for_certainty(value: float) -> None:
    low, high = ends(of_cases(*[value] * 100))
    assert high - low == pytest.approx(0.037, abs=0.001)  # Wilson at 100 of 100: [0.963, 1]


def test_even_a_single_resample_cannot_leave_the_mean_outside() -> None:
    metric = of_cases(*[float(index % 3 == 0) for index in range(40)], settings=StatisticsSettings(resamples=1))
    low, high = ends(metric)
    assert metric.value is not None
    assert low <= metric.value <= high


def test_below_ten_cases_the_interval_is_wilsons() -> None:
    metric = of_cases(1, 1, 1, 0, 0)
    assert ends(metric) == wilson(0.6, 5)
    assert of_cases(*[1.0] * 5, *[0.0] * 5).low != wilson(0.5, TINY_CASES)[0]


def test_wilsons_interval_agrees_with_its_published_example() -> None:
    # Newcombe, Statistics in Medicine 17 (1998), table I, method 3: 81 of 263 -> 0.2553 to 0.3662; 0 of 20.
    assert wilson(81 / 263, 263) == pytest.approx((0.2553, 0.3662), abs=5e-5)
    assert wilson(0.0, 20) == pytest.approx((0.0, 0.1611), abs=5e-5)


def test_samples_of_one_case_are_not_taken_for_independent() -> None:
    apart = [Observation(case=index, value=float(index % 2)) for index in range(120)]
    together = [Observation(case=index // 12 * 2 + index % 2, value=float(index % 2)) for index in range(120)]
    low, high = ends(mean_with_interval(apart, FEW))
    wide_low, wide_high = ends(mean_with_interval(together, FEW))
    assert wide_high - wide_low > 1.7 * (high - low)


def test_an_unbounded_figure_without_spread_has_no_interval() -> None:
    metric = of_cases(*[-0.2] * 40, bounded=False)
    assert metric.value == pytest.approx(-0.2)
    assert (metric.low, metric.high, metric.n) == (None, None, 40)


def test_an_unbounded_figure_with_spread_has_one() -> None:
    low, high = ends(of_cases(*[-0.5, 0.5] * 20, bounded=False))
    assert low < 0 < high


def test_the_interval_covers_the_truth_about_as_often_as_it_says() -> None:
    generator = random.Random(5)  # noqa: S311
    hits = 0
    for _ in range(200):
        low, high = ends(of_cases(*[float(generator.random() < 0.7) for _ in range(50)]))
        hits += low <= 0.7 <= high
    assert 0.88 <= hits / 200 <= 0.99
