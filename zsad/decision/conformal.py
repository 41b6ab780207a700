"""Split-conformal inference: p-values, and thresholds with a guaranteed false-alarm rate, from normal pictures.

The scores of n normal pictures that the detector has not learned from, and the score of one more normal picture, are
exchangeable: every rank among the n + 1 is equally likely. Hence with ::

    p(score) = (1 + number of normal scores at or above it) / (n + 1)

a new normal picture has p <= alpha with probability alpha at most (Vovk, Gammerman and Shafer 2005; Laxhammar and Falkman 2010;
Bates et al., Testing for outliers with conformal p-values, Annals of Statistics 51, 2023). With k the largest integer for which
k / (n + 1) <= alpha, that is a score above the k-th largest normal one. Nothing is assumed of the scores' distribution, and
ties make the rule stricter. The guarantee is an average over sets of n normal pictures: for one set, and scores without ties,
the rate that comes true is drawn from Beta(k, n + 1 - k) (Vovk, Conditional validity of inductive conformal predictors, 2012).
It does not survive a change of what is inspected: other light, another camera, another supplier.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from fractions import Fraction

import numpy as np
from numpy.typing import NDArray

from zsad.errors import UsageError

__all__ = ["Floats", "check_rate", "check_size", "false_alarm_spread", "fewest", "order_statistic", "p_values", "threshold"]

LEAST = 1e-9  # a false-alarm rate below this is taken for a slip
Floats = Sequence[float] | NDArray[np.float64]


def p_values(scores: Floats, normal_scores: Floats) -> NDArray[np.float64]:
    """Conformal p-values of scores, from 1 / (n + 1) to 1; low means that few normal pictures score as high.

    Args:
        scores: (M,) raw scores, higher is more anomalous.
        normal_scores: (n,) raw scores of normal pictures, in any order.

    Returns:
        (M,) float64.
    """
    normal = np.sort(np.asarray(normal_scores, dtype=np.float64))
    above = len(normal) - np.searchsorted(normal, np.asarray(scores, dtype=np.float64), side="left")
    found: NDArray[np.float64] = (1 + above) / (len(normal) + 1)
    return found


def threshold(normal_scores: Floats, alpha: float) -> float:
    """The least score whose p-value is ``alpha`` or below, so that ``score >= threshold`` holds where ``p <= alpha`` does.

    Args:
        normal_scores: (n,) raw scores of normal pictures.
        alpha: share of normal pictures that may reach the threshold, in (0, 1).

    Raises:
        UsageError: alpha is no such share, or n pictures cannot guarantee it.
    """
    return float(np.nextafter(order_statistic(normal_scores, alpha), np.inf))


def order_statistic(values: Floats, alpha: float) -> float:
    """The k-th largest value: scores above it are anomalous by ``threshold``; arguments and errors as there."""
    check_size(len(values), alpha)
    return float(np.sort(np.asarray(values, dtype=np.float64))[-_rank(len(values), alpha)])


def check_size(count: int, alpha: float) -> None:
    """Raises ``UsageError`` where so many normal pictures cannot guarantee a false-alarm rate."""
    if not _rank(count, alpha):
        raise UsageError(
            f"{pictures(count)} cannot guarantee less than {lowest_rate(count)} false alarms, and {percent(alpha)} was asked "
            f"for. Give at least {pictures(fewest(alpha))}, or a higher rate."
        )


def fewest(alpha: float) -> int:
    """The least number of normal pictures that guarantees a false-alarm rate: the first n with 1 / (n + 1) <= alpha."""
    count = math.ceil(1 / Fraction(check_rate(alpha))) - 1
    return count - 1 if count > 1 and _rank(count - 1, alpha) else count  # 1 / 3 as a float is no third


def false_alarm_spread(count: int, alpha: float, inside: float = 0.9) -> tuple[float, float, float]:
    """(mean, low, high) of the false-alarm rate at ``threshold`` over sets of n pictures, for scores without ties.

    Args:
        count: number n of normal pictures.
        alpha: the guaranteed false-alarm rate.
        inside: of so many sets of n pictures the rate lies between ``low`` and ``high``, with equal tails.
    """
    rank = _rank(count, alpha)
    if not rank:
        return 0.0, 0.0, 0.0
    from scipy.special import betaincinv  # late, as scipy.integrate in metrics: import zsad is shorter by it

    low, high = (float(betaincinv(rank, count + 1 - rank, q)) for q in ((1 - inside) / 2, (1 + inside) / 2))
    return rank / (count + 1), low, high


def _rank(count: int, alpha: float) -> int:
    """The largest k with k / (count + 1) <= alpha, as floating point numbers compare; 0 where there is none."""
    rank = math.floor(check_rate(alpha) * (count + 1)) + 1  # the product may be off by a rounding, upwards or downwards
    while rank / (count + 1) > alpha:
        rank -= 1
    return rank


def check_rate(rate: float) -> float:
    """Checks a false-alarm rate and returns it.

    Raises:
        UsageError: it does not lie between 0 and 1.
    """
    if not LEAST < rate < 1:
        raise UsageError(f"The false-alarm rate is {rate}; give a number between 0 and 1, such as 0.05.")
    return rate


def percent(share: float, digits: int = 3) -> str:
    """A share in per cent: 0.05 as "5 %"."""
    return f"{100 * share:.{digits}g} %"


def pictures(count: int) -> str:
    """A number of normal pictures in words: "1 normal picture", "20 normal pictures"."""
    return f"{count} normal picture{'s' * (count != 1)}"


def lowest_rate(count: int) -> str:
    """The lowest false-alarm rate that n normal pictures guarantee, 1 / (n + 1), in per cent rounded up to two digits."""
    floor = 100 / (count + 1)
    unit = 10.0 ** (math.floor(math.log10(floor)) - 1)
    return f"{math.ceil(floor / unit - 1e-9) * unit:.9g} %"
