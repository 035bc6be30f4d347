"""A second opinion on half-retention for outcomes that are 0 or 1: a binomial GEE on all draws at once.

The first opinion, `studies.retention.half_retention`, fits each chain by itself and assumes no shape. This one assumes
a shape, needs no chain to cross one half by itself, and weighs draws by what they say. Where the two disagree the
shape is wrong, or the chains are.
"""

import warnings
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike
from scipy import special, stats
from statsmodels.genmod import families
from statsmodels.genmod.families import links
from statsmodels.genmod.generalized_estimating_equations import GEE

from studies.retention import HalfRetention

NEAR = 0.05  # a draw this far from both limits, in retention, is what tells where the curve falls
EDGE = 0.02  # how near to its limits a share may count when the fit is started


class Between(links.Logit):
    """Link g(p) = logit((p − low)/(high − low)): a share between chance and its value at the trained weights.

    >>> link = Between(0.2, 1.0)
    >>> float(link.inverse(np.array([0.0]))[0]), abs(float(link(np.array([0.6]))[0].round(9)))
    (0.6..., 0.0)
    """

    def __init__(self, low: float, high: float) -> None:
        self.low, self.span = low, high - low

    def __call__(self, p: Any) -> Any:
        """g(p), p clipped into its range."""
        return super().__call__(self._share(p))

    def inverse(self, z: Any) -> Any:
        """The share low + (high − low)/(1 + e^(−z))."""
        return self.low + self.span * special.expit(z)

    def deriv(self, p: Any) -> Any:
        """g′(p)."""
        return super().deriv(self._share(p)) / self.span

    def inverse_deriv(self, z: Any) -> Any:
        """dp/dz."""
        return self.span * special.expit(z) * special.expit(-np.asarray(z))

    def deriv2(self, p: Any) -> Any:
        """g″(p)."""
        return super().deriv2(self._share(p)) / self.span**2

    def _share(self, p: Any) -> Any:
        return np.clip((np.asarray(p, float) - self.low) / self.span, 1e-9, 1 - 1e-9)


def logistic_half_retention(
    rise: ArrayLike,
    value: ArrayLike,
    chain: ArrayLike,
    *,
    start: float,
    chance: float,
    confidence: float = 0.95,
) -> HalfRetention:
    """E½ of a behaviour that is right or wrong, from one log-logistic curve through all draws.

    P(right) = f₀ + (f(w*) − f₀)/(1 + exp(−a − b·log rise)), fitted by generalised estimating equations (Liang & Zeger
    1986; statsmodels' `GEE`, binomial, working independence, a chain a cluster), and log E½ = −a/b with the delta
    method. The sandwich covariance is multiplied by G/(G − 1) and referred to t with G − 1 degrees of freedom: for
    chains of equal length it is then the sample variance of the chains' influences. Draws that were all asked the same
    questions may be given as shares; the equations are the same.

    Args:
        rise: (draws,) loss rise of each draw, nats per token; those at or below 0 are left out.
        value: (draws,) share of questions answered rightly, or 0 and 1.
        chain: (draws,) chain of each draw.
        start: Share at the trained weights, on the same questions.
        chance: Chance level, below `start`.
        confidence: Nominal coverage.

    Returns:
        The scale, censored at the ends of the ladder; limits beyond them are open. Without a value, and with the
        reason, if the curve does not fall, falls between two rungs at once, or there are fewer than two chains.

    Raises:
        ValueError: A value outside 0..1, or a start that is not above chance.
    """
    rows = _rows(rise, value, chain, start, chance)
    chains = int(rows["chain"].nunique())
    if chains < 2 or rows["x"].nunique() < 2:
        return _absent(f"{chains} chains and {rows['x'].nunique()} rises are too few for a curve")
    fitted = _fit(rows, start, chance)
    if isinstance(fitted, str):
        return _absent(fitted)
    (level, slope), covariance = fitted
    quantile = float(stats.t.ppf((1 + confidence) / 2, chains - 1))
    if slope + quantile * np.sqrt(covariance[1, 1]) >= 0:
        return _flat(rows, chains, (start + chance) / 2)
    gradient = np.array([-1.0, level / slope]) / slope
    half = quantile * float(np.sqrt(gradient @ covariance @ gradient))
    return _within(-level / slope, half, float(rows["x"].min()), float(rows["x"].max()), chains)


def _rows(rise: ArrayLike, value: ArrayLike, chain: ArrayLike, start: float, chance: float) -> pd.DataFrame:
    if not start > chance:
        raise ValueError(f"start={start:g} must be above chance={chance:g}: there is nothing to retain")
    frame = pd.DataFrame({"rise": np.asarray(rise, float), "y": np.asarray(value, float), "chain": np.asarray(chain)})
    if frame["y"].min() < 0 or frame["y"].max() > 1:
        raise ValueError(f"values must be shares in 0..1, got {frame['y'].min():g} to {frame['y'].max():g}")
    frame = frame[(frame["rise"] > 0) & np.isfinite(frame["y"])]
    return frame.assign(x=np.log(frame["rise"])).sort_values("chain", kind="stable", ignore_index=True)


def _fit(rows: pd.DataFrame, start: float, chance: float) -> tuple[np.ndarray, np.ndarray] | str:
    """Level and slope with their covariance, or why there are none; centred while fitting, for its condition."""
    middle, chains = float(rows["x"].mean()), rows["chain"].nunique()
    design = np.column_stack([np.ones(len(rows)), rows["x"] - middle])
    kept = np.clip((rows["y"] - chance) / (start - chance), EDGE, 1 - EDGE)
    first = np.linalg.lstsq(design, special.logit(kept), rcond=None)[0]
    family = families.Binomial(link=Between(chance, start))
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")  # what they say is checked below
        try:
            found = GEE(rows["y"], design, groups=rows["chain"], family=family).fit(start_params=first, maxiter=100)
        except (ValueError, np.linalg.LinAlgError) as fault:
            return f"the curve could not be fitted ({fault})"
    estimate, covariance = np.asarray(found.params), np.asarray(found.cov_robust) * chains / (chains - 1)
    kept = special.expit(design @ estimate)
    between = (kept > NEAR) & (kept < 1 - NEAR)
    if not np.isfinite(covariance).all() or (np.ptp(kept) > 1 - 2 * NEAR and not between.any()):
        return "it falls between two rungs at once: the steepness of the curve is not determined"
    turn = np.array([[1.0, -middle], [0.0, 1.0]])
    return turn @ estimate, turn @ covariance @ turn.T


def _within(log_half: float, half: float, first: float, last: float, chains: int) -> HalfRetention:
    """The scale and its interval, cut to the ladder."""
    low = 0.0 if log_half - half < first else float(np.exp(log_half - half))
    high = np.inf if log_half + half > last else float(np.exp(log_half + half))
    if log_half > last:
        bound = min(low, float(np.exp(last)))
        return HalfRetention(
            float(np.exp(last)), bound, np.inf, "right", chains, "above one half throughout", 0, chains
        )
    if log_half < first:
        bound = max(high, float(np.exp(first)))
        return HalfRetention(float(np.exp(first)), 0.0, bound, "left", chains, "below one half throughout", chains, 0)
    return HalfRetention(float(np.exp(log_half)), low, high, "none", chains)


def _flat(rows: pd.DataFrame, chains: int, middle: float) -> HalfRetention:
    """No fall that could be told from none: censored at one end if all chains stand on one side of one half."""
    means = rows.groupby("chain")["y"].mean()
    first, last = float(rows["rise"].min()), float(rows["rise"].max())
    said = "no fall along the ladder could be told from none"
    if (means > middle).all():
        return HalfRetention(last, 0.0, np.inf, "right", chains, said, 0, chains)
    if (means < middle).all():
        return HalfRetention(first, 0.0, np.inf, "left", chains, said, chains, 0)
    return _absent(said)


def _absent(reason: str) -> HalfRetention:
    return HalfRetention(np.nan, np.nan, np.nan, "none", 0, reason)
