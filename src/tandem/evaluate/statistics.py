"""Means with 95 % intervals: a bootstrap over cases, and Wilson's interval where a bootstrap is blind."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Hashable, Iterable
from dataclasses import dataclass
from statistics import NormalDist

from tandem.evaluate.records import Record

FEW_CASES = 30
"""Below this many independent cases a figure comes with a warning."""

TINY_CASES = 10
"""Below this many cases a bootstrap resamples too little to be believed."""

_LEVEL = 0.95
_Z = NormalDist().inv_cdf(0.5 + _LEVEL / 2)
_CHUNK = 4_000_000
"""Resampled counts held at once: 32 MB."""


class Metric(Record):
    """One figure with its 95 % interval."""

    value: float | None
    """The mean; null when n is 0."""
    low: float | None
    """Lower end of the 95 % interval."""
    high: float | None
    """Upper end. Both are null when n is 0, and for an unbounded figure that shows no spread to estimate from."""
    n: int
    """Samples in the mean's denominator."""


class StatisticsSettings(Record):
    """How intervals are resampled."""

    seed: int = 0
    """Of numpy's PCG64: the same values give the same interval."""
    resamples: int = 2000
    """Enough for the 2.5 and 97.5 percentiles to be steady to about a tenth of the interval's width."""


@dataclass(frozen=True, kw_only=True)
class Observation:
    """One sample's value, and the case it belongs to."""

    case: Hashable
    value: float


def mean_with_interval(
    observations: Iterable[Observation], settings: StatisticsSettings, *, bounded: bool = True
) -> Metric:
    """The mean over samples with its 95 % interval.

    Percentile bootstrap over whole cases, since samples of one case resemble each other (percentile
    rather than BCa: BCa's acceleration is undefined for the near-constant values that good and bad models
    give). Where every value is the same, or below TINY_CASES cases, a bootstrap would claim certainty:
    there it is Wilson's interval with the number of cases as its sample size. For values in [0, 1] that are
    not 0 or 1 this is wider than need be, as their variance is at most p(1 - p); unbounded values get no
    interval there. The interval always holds the mean, and neither depends on the order of the samples.
    """
    cases = _cases(observations)
    n = sum(size for size, _ in cases)
    if n == 0:
        return Metric(value=None, low=None, high=None, n=0)
    value = math.fsum(total for _, total in cases) / n
    if _is_tiny_or_flat(cases):
        low, high = wilson(min(max(value, 0.0), 1.0), len(cases)) if bounded else (None, None)
    else:
        low, high = _bootstrap(cases, settings)
    if low is not None and high is not None:
        low, high = min(low, value), max(high, value)
    return Metric(value=value, low=low, high=high, n=n)


def wilson(share: float, n: int) -> tuple[float, float]:
    """Wilson's 95 % interval of a share seen in n independent cases; stays informative at 0 and 1.

    E. B. Wilson, Probable inference, the law of succession, and statistical inference, 1927.
    """
    spread = _Z * _Z / n
    centre = (share + spread / 2) / (1 + spread)
    half = _Z * math.sqrt(share * (1 - share) / n + spread / (4 * n)) / (1 + spread)
    return max(0.0, centre - half), min(1.0, centre + half)


def count_cases(cases: Iterable[Hashable]) -> int:
    """How many different cases there are."""
    return len(set(cases))


def _cases(observations: Iterable[Observation]) -> list[tuple[int, float]]:
    """Size and sum of each case, in an order that depends on neither names nor the order of samples."""
    values: dict[Hashable, list[float]] = defaultdict(list)
    for observation in observations:
        values[observation.case].append(observation.value)
    return sorted((len(group), math.fsum(group)) for group in values.values())


def _is_tiny_or_flat(cases: list[tuple[int, float]]) -> bool:
    means = [total / size for size, total in cases]
    return len(cases) < TINY_CASES or max(means) - min(means) < 1e-12


def _bootstrap(cases: list[tuple[int, float]], settings: StatisticsSettings) -> tuple[float, float]:
    import numpy as np

    random = np.random.Generator(np.random.PCG64(settings.seed))
    sizes = np.array([size for size, _ in cases], dtype=np.float64)
    totals = np.array([total for _, total in cases], dtype=np.float64)
    rows = max(1, _CHUNK // len(cases))
    means: list[float] = []
    while len(means) < settings.resamples:
        drawn = random.integers(0, len(cases), size=(min(rows, settings.resamples - len(means)), len(cases)))
        means.extend(totals[drawn].sum(axis=1) / sizes[drawn].sum(axis=1))
    tail = (1 - _LEVEL) / 2
    low, high = np.quantile(np.array(means), [tail, 1 - tail])
    return float(low), float(high)
