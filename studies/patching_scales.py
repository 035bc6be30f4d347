"""At which loss scale does a reconstruction pay what the model pays? Two answers, from the losses of both.

(a) c*: the degradation whose own loss L_c equals the patched loss at w*. (b) At each degradation c the gap

    g_c = (patched_c − L_c) / (guess − L_c),

the share that the reconstruction misses of what the model still knows there, tested for equivalence to 0 within 5 % by
two one-sided tests at 5 % (Schuirmann 1987): the 90 % interval lies within ±5 %. It is asked only where the model
keeps half of what it knew, (guess − L_c)/(guess − L_1) ≥ ½: further out both are near a guess, and meet trivially.

Errors hold the choice of draws and that of examples: V = V_chain + V_example, each clustered (CR1), which counts the
noise of single draws twice and is never too small for it; t with as many degrees of freedom as the smaller number of
clusters less one.
"""

from typing import NamedTuple

import numpy as np
import pandas as pd
from scipy import stats

from studies.behaviours import enclosing_verdict
from studies.retention import SIGNAL, Censoring, HalfRetention, crossing
from studies.statistics import chain_interval

MARGIN = 0.05  # of what the model knows
KEPT = 0.5  # of what the model knew at w*
KEY = ["family", "label"]


class Ratio(NamedTuple):
    """A ratio of means, its standard error, and the degrees of freedom of a t reference; nan where unknown."""

    value: float
    se: float
    df: float

    def limits(self, confidence: float) -> tuple[float, float]:
        """Two-sided limits."""
        half = float(stats.t.ppf((1 + confidence) / 2, self.df)) * self.se
        return self.value - half, self.value + half


def ratio(top: np.ndarray, bottom: np.ndarray, chain: np.ndarray, example: np.ndarray, draws: bool = True) -> Ratio:
    """mean(top) / mean(bottom), clustered both by chain and by example; see the module.

    Args:
        top: (rows,) a row per draw and example.
        bottom: (rows,) the same.
        chain: (rows,) chain of each.
        example: (rows,) example of each.
        draws: Whether the rows are draws of a law; at w* there is one model, and examples alone are a choice.

    >>> ratio(np.array([1.0, 3.0]), np.ones(2), np.zeros(2), np.arange(2), draws=False)
    Ratio(value=2.0, se=1.0, df=1.0)
    """
    value = float(top.mean() / bottom.mean())
    rest = (top - value * bottom) / bottom.mean()
    variance, degrees = 0.0, np.inf
    for cluster in (chain, example) if draws else (example,):
        _, code = np.unique(cluster, return_inverse=True)
        count = int(code.max()) + 1
        if count == 1:
            return Ratio(value, np.nan, np.nan)
        variance += count / (count - 1) * float((np.bincount(code, weights=rest) ** 2).sum()) / len(rest) ** 2
        degrees = min(degrees, count - 1.0)
    return Ratio(value, float(np.sqrt(variance)), float(degrees))


def curves(found: pd.DataFrame) -> pd.DataFrame:
    """A row per reconstruction and rung: both losses, the gap between them, and whether they are equivalent.

    Args:
        found: What `studies.patching_losses.losses` returned.

    Returns:
        family, label, rung, target, rise (nats per unit of the ladder's loss), verdict, own, patched, guess (mean nats
        per answer), own_low, own_high, patched_low, patched_high (95 %), share with share_low, share_high (90 %),
        kept with kept_low, kept_high (95 %): (guess − L_c)/(guess − L_1); chains, draws, examples; equivalent: "yes",
        "no" (the interval lies outside ±5 %), "undecided", or "not asked" (kept below ½, or no guess to compare with).
    """
    start = found[found["rung"] == 0]
    knew = start.assign(knew=start["guess"] - start["own"])[[*KEY, "example", "knew"]]
    out = []
    for _, rows in found.merge(knew, on=[*KEY, "example"]).groupby([*KEY, "rung"], sort=False):
        where = {name: rows[name].iloc[0] for name in (*KEY, "rung", "target", "verdict")}
        where["rise"] = rows.groupby(["chain", "draw"])["rise"].first().mean()
        out.append(where | _point(rows))
    return pd.DataFrame(out).sort_values("rung", kind="stable", ignore_index=True)


def _point(rows: pd.DataFrame) -> dict[str, object]:
    own, patched, guess, before = (rows[name].to_numpy(float) for name in ("own", "patched", "guess", "knew"))
    draws = bool(rows["rung"].iloc[0] > 0)
    chain, example = rows["chain"].to_numpy(), rows["example"].to_numpy()

    def estimate(top: np.ndarray, bottom: np.ndarray) -> Ratio:
        return ratio(top, bottom, chain, example, draws)

    one = np.ones_like(own)
    means = {"own": estimate(own, one), "patched": estimate(patched, one)}
    means |= {"share": estimate(patched - own, guess - own), "kept": estimate(guess - own, before)}
    out: dict[str, object] = {"guess": guess.mean()}
    for name, mean in means.items():
        low, high = mean.limits(0.90 if name == "share" else 0.95)
        out |= {name: mean.value, f"{name}_low": low, f"{name}_high": high}
    counts = {"chains": rows["chain"].nunique(), "draws": len(rows[["chain", "draw"]].drop_duplicates())}
    verdict = equivalence(means["share"], means["kept"].value)
    return out | counts | {"examples": rows["example"].nunique(), "equivalent": verdict}


def equivalence(share: Ratio, kept: float) -> str:
    """Whether a gap is equivalent to 0 within 5 %, see the module.

    >>> equivalence(Ratio(0.01, 0.01, 3.0), kept=0.9), equivalence(Ratio(0.01, 0.01, 3.0), kept=0.4)
    ('yes', 'not asked')
    >>> equivalence(Ratio(0.2, 0.01, 3.0), kept=0.9), equivalence(Ratio(0.04, 0.01, 3.0), kept=0.9)
    ('no', 'undecided')
    """
    if not kept >= KEPT or not np.isfinite(share.value):
        return "not asked"
    low, high = share.limits(0.90)
    if low > -MARGIN and high < MARGIN:
        return "yes"
    return "no" if low > MARGIN or high < -MARGIN else "undecided"


def crossings(found: pd.DataFrame) -> pd.DataFrame:
    """A row per reconstruction: c*, the rise at which the model's own loss equals the patched loss at w*.

    Per chain the crossing of the isotonic fit of L_c against log rise, averaged over chains on the log axis. The
    interval holds the choice of chains (t) and of examples (delete-one jackknife of the mean log crossing).

    Returns:
        family, label, own, patched, guess (at w*, nats per answer), gap and gap_se (patched − own, paired over
        examples), value, low, high (c* in nats per unit of the ladder's loss), censored, chains (0: there is no c*),
        left, right, reason, kept (what the model still knows at c*, a share of what it knew), verdict (the worst among
        the rungs that enclose the interval).
    """
    return pd.DataFrame(
        [
            {"family": family, "label": label, **_crossing(rows)}
            for (family, label), rows in found.groupby(KEY, sort=False)
        ]
    )


def _crossing(rows: pd.DataFrame) -> dict[str, object]:
    start = rows[rows["rung"] == 0].sort_values("example")
    own, patched, guess = (start[name].to_numpy(float) for name in ("own", "patched", "guess"))
    told = {"own": own.mean(), "patched": patched.mean(), "guess": guess.mean()}
    told |= {"gap": (patched - own).mean(), "gap_se": float(np.std(patched - own, ddof=1) / np.sqrt(len(own)))}
    told["kept"] = (told["guess"] - told["patched"]) / (told["guess"] - told["own"])
    reason = _absence(told)
    half = (
        HalfRetention(np.nan, np.nan, np.nan, "none", 0, reason) if reason else _scale(rows[rows["rung"] > 0], patched)
    )
    ladder = rows.groupby("rung").agg(rise=("rise", "mean"), verdict=("verdict", "first")).reset_index()
    return told | vars(half) | {"verdict": enclosing_verdict(ladder, half)}


def _absence(told: dict[str, float]) -> str:
    """Why no degradation can be said to pay what the patched run paid at w*."""
    size = f"{told['gap']:.2g} ± {told['gap_se']:.1g} nats"
    if told["patched"] >= told["guess"]:
        return (
            f"the patched run knows no more than a guess at w* ({told['patched']:.3g} against {told['guess']:.3g} nats)"
        )
    if abs(told["gap"]) <= SIGNAL * told["gap_se"]:
        return f"at w* patched and own loss differ by less than {SIGNAL:g} standard errors ({size})"
    return f"the patched run pays less than the model at w* ({size})" if told["gap"] < 0 else ""


def _scale(rows: pd.DataFrame, patched: np.ndarray) -> HalfRetention:
    """c* with the interval of `crossings`."""
    if rows.empty:
        return HalfRetention(np.nan, np.nan, np.nan, "none", 0, "no rung can be used")
    means = rows.pivot_table(index=["chain", "rung"], columns="example", values="own").sort_index(axis=1)
    rise = rows.groupby(["chain", "rung"])["rise"].mean().loc[means.index].to_numpy()
    chain = means.index.get_level_values("chain").to_numpy()
    known = patched - means.to_numpy()  # what is left until the patched loss is reached, (chains × rungs, examples)
    whole = [_first(rise, known.mean(1), chain, one) for one in np.unique(chain)]
    usable = [(scale, side) for scale, side in whole if np.isfinite(scale)]
    if not usable:
        return HalfRetention(np.nan, np.nan, np.nan, "none", 0, "no rung has a positive rise")
    count = known.shape[1]
    less = (known.sum(1, keepdims=True) - known) / (count - 1)
    logs = [np.mean([np.log(_first(rise, part, chain, one)[0]) for one in np.unique(chain)]) for part in less.T]
    examples = (count - 1) / count * float(((logs - np.mean(logs)) ** 2).sum())
    return _averaged(np.log([scale for scale, _ in usable]), [side for _, side in usable], examples)


def _first(rise: np.ndarray, known: np.ndarray, chain: np.ndarray, one: int) -> tuple[float, int]:
    return crossing(rise[chain == one], known[chain == one], level=0.0)


def _averaged(logs: np.ndarray, sides: list[int], examples: float) -> HalfRetention:
    """Mean over chains on the log axis; limits are open where chains cross outside the ladder."""
    mean, se, _, _, chains = chain_interval(list(logs))
    left, right = sides.count(-1), sides.count(1)
    half = float(stats.t.ppf(0.975, chains - 1) * np.sqrt(se**2 + examples)) if chains > 1 else np.nan
    low = 0.0 if left else float(np.exp(mean - half))
    high = np.inf if right else float(np.exp(mean + half))
    value = np.nan if left and right else float(np.exp(mean))
    parts = [f"{left} of {chains} chains pay more already at the first rung"] if left else []
    parts += [f"{right} of {chains} chains pay less still at the last rung"] if right else []
    parts += ["one chain: no interval"] if chains == 1 else []
    censored: Censoring = "mixed" if left and right else "left" if left else "right" if right else "none"
    return HalfRetention(value, low, high, censored, chains, "; ".join(parts), left, right)
