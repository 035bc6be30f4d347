"""A ladder as a heated system: complexity against scale, fluctuations, heat capacity, and the volume of low loss.

With p(w | nβ) ∝ exp(−nβ ΔL(w)) φ(w), E = E[ΔL] and λ = nβ E, for any loss and any neighbourhood φ:

    dE/dnβ = −Var(ΔL)                       a fluctuation is a slope
    nβ² Var = λ − dλ/d ln nβ                the same in units of λ: the heat capacity, and a check of a ladder
    ln Z(b) / Z(b₀) = −∫ λ d ln nβ          the free energy
    V(E) ≈ Z exp(nβ E) / (nβ √(2π Var))     the prior mass below E, by the saddle point at the nβ whose rise is E

so that d ln V / d ln E ≈ λ(E): the LLC at a scale is the exponent of the volume there (Lau et al. 2023,
arXiv:2308.12108, and Watanabe 2009, chapter 7, for E → 0). On a pure power law λ is constant and the three agree.
"""

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import pandas as pd
from scipy.interpolate import PchipInterpolator

from degrade.influence import baseline, losses
from degrade.result import Ladder

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


class Fluctuation(NamedTuple):
    """Var(ΔL) of one rung, nats² per unit², with what its two errors are read from.

    `each` is what each chain alone says, shape (chains,); `examples_se` the error that the choice of evaluation
    examples leaves, which chains share.
    """

    value: float
    each: np.ndarray
    examples_se: float


def table(ladder: Ladder) -> pd.DataFrame:
    """The thermodynamics of a ladder, a row a rung; failed rungs are left out.

    Returns:
        rung, nbeta, rise, llc, llc_se, verdict as in the ladder's table, and
        variance: Var(ΔL) over the sampling data, nats² per unit²;
        heat_capacity, heat_capacity_se: nβ² Var, dimensionless as λ; errors of chains and of evaluation examples;
        slope: dλ/d ln nβ, by differences between rungs;
        gap, gap_se: nβ² Var − (λ − slope): 0 in equilibrium, where rungs are close enough for differences;
        log_partition: ln Z, and log_volume: ln V(E), both 0 at the hottest rung.

    Raises:
        ValueError: if no rung is left.
    """
    rows = ladder.table[(ladder.table.rung > 0) & (ladder.table.verdict != "failed")]
    if rows.empty:
        raise ValueError("every rung of this ladder failed; expected at least one to read: see ladder.table.reason")
    rows = rows.sort_values("nbeta", ascending=False)
    found = [variance(ladder, int(rung)) for rung in rows.rung]
    nbeta, llc = rows.nbeta.to_numpy(float), rows.llc.to_numpy(float)
    spread = np.array([one.value for one in found])
    heat = nbeta**2 * spread
    heat_error = [_error(b**2 * one.each) for b, one in zip(nbeta, found, strict=True)]
    examples = nbeta**2 * [one.examples_se for one in found]
    each = _by_chain(ladder, list(rows.rung), nbeta, found)
    partition = log_partition(nbeta, llc)
    volume = partition + llc - 0.5 * np.log(2 * np.pi * np.maximum(spread, 1e-300)) - np.log(nbeta)
    return pd.DataFrame(
        {
            **{name: rows[name].to_numpy() for name in ("rung", "nbeta", "rise", "llc", "llc_se", "verdict")},
            "variance": spread,
            "heat_capacity": heat,
            "heat_capacity_se": np.hypot(heat_error, examples),
            "slope": slope(nbeta, llc),
            "gap": heat - llc + slope(nbeta, llc),
            "gap_se": np.hypot([_error(column) for column in each.T], examples),
            "log_partition": partition,
            "log_volume": volume - volume[-1],
        }
    )


def variance(ladder: Ladder, rung: int) -> Fluctuation:
    """Var(ΔL) of the sampling data's mean loss at one rung, from the losses of the fixed evaluation set.

    With m of N examples, Var = C + (D − C)/N: C the mean covariance of two different examples, D the mean variance of
    one. C is the covariance of the means of two disjoint halves, averaged over all ways to halve the set: the variance
    of the evaluation set's own mean would count the noise of its examples too. Unbiased for independent chains, however
    slowly they mix.
    """
    rises = (losses(ladder, rung) - baseline(ladder)) / np.mean(ladder.manifest["counts"])
    total = int(ladder.manifest["examples"])
    rises = rises - rises.mean((0, 1))
    each = np.array([_mean_covariance(chain, total) for chain in rises])
    chains, looks = rises.shape[:2]
    surplus = each.mean() / max(looks - 1, 1) if chains == 1 else _mean_covariance(rises.mean(1), total) / (chains - 1)
    return Fluctuation(float(each.mean() + surplus), each, _examples_se(rises.reshape(chains * looks, -1), total))


def _mean_covariance(rises: np.ndarray, total: int) -> float:
    """Var of the mean over `total` examples, from centred rows (looks, examples) of a sample of them."""
    size = rises.shape[1]
    own, whole = float((rises**2).mean()), float((rises.mean(1) ** 2).mean())
    if size == 1:
        return own
    between = (size * whole - own) / (size - 1)
    return between + (own - between) / total


def _examples_se(rises: np.ndarray, total: int) -> float:
    """Error of the mean covariance by leaving out an example at a time; none where the sample is all there is."""
    size = rises.shape[1]
    if size < 3 or size >= total:
        return 0.0
    others = rises.T @ rises.sum(1) / len(rises) - (rises**2).mean(0)  # Σ_j≠i Cov(i, j)
    without = (others.sum() - 2 * others) / ((size - 1) * (size - 2))
    return float(np.sqrt((1 - size / total) * (size - 1) * without.var()))


def slope(nbeta: np.ndarray, llc: np.ndarray) -> np.ndarray:
    """dλ/d ln nβ by differences, second order within and at the ends; nan for a single rung."""
    if len(nbeta) < 2:
        return np.full(len(nbeta), np.nan)
    return np.gradient(llc, np.log(nbeta), edge_order=2 if len(nbeta) > 2 else 1)


def log_partition(nbeta: np.ndarray, llc: np.ndarray) -> np.ndarray:
    """Ln Z(nβ) / Z(hottest) = −∫ λ d ln nβ, by a monotone cubic through the rungs (nβ descending)."""
    if len(nbeta) < 2:
        return np.zeros(len(nbeta))
    x = np.log(nbeta)[::-1]
    return -PchipInterpolator(x, llc[::-1]).antiderivative()(x)[::-1]


def _by_chain(ladder: Ladder, rungs: list[int], nbeta: np.ndarray, found: list[Fluctuation]) -> np.ndarray:
    """The gap by each chain that finished all rungs, shape (chains, rungs): it carries what chains share over rungs."""
    kept = ladder.traces[ladder.traces.kept & ladder.traces.rung.isin(rungs)]
    rises = kept.pivot_table(index="chain", columns="rung", values="rise").dropna()[rungs].to_numpy() * nbeta
    if any(len(one.each) != len(rises) for one in found):
        return np.full((1, len(rungs)), np.nan)
    heat = np.stack([b**2 * one.each for b, one in zip(nbeta, found, strict=True)], axis=1)
    return np.stack([own - llc + slope(nbeta, llc) for own, llc in zip(heat, rises, strict=True)])


def _error(values: np.ndarray) -> float:
    return float(values.std(ddof=1) / np.sqrt(len(values))) if len(values) > 1 else float("nan")


def figure(thermodynamics: pd.DataFrame, unit: str = "unit") -> "Figure":
    """Complexity, volume and heat capacity against the rise, from `table`; suspect rungs hollow.

    Args:
        thermodynamics: what `table` returned.
        unit: what the loss counts, for the axis.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 3.2), layout="constrained")
    complexity, volume, heat = figure.subplots(1, 3)
    _points(complexity, thermodynamics, "llc", "llc_se")
    complexity.set_ylabel("λ = nβ · rise")
    _points(volume, thermodynamics, "log_volume", None)
    volume.set_ylabel("ln V(rise), 0 at the hottest rung")
    _points(heat, thermodynamics, "heat_capacity", "heat_capacity_se", "nβ² Var")
    expected = thermodynamics.llc - thermodynamics.slope
    heat.plot(thermodynamics.rise, expected, color="C1", linewidth=1, label="λ − dλ/d ln nβ")
    heat.set_ylabel("heat capacity")
    heat.legend(frameon=False, fontsize=8)
    for panel in (complexity, volume, heat):
        panel.set_xscale("log" if (thermodynamics.rise > 0).all() else "linear")
        panel.set_xlabel(f"loss rise (nats per {unit})")
    return figure


def _points(panel: "Axes", rows: pd.DataFrame, name: str, error: str | None, label: str | None = None) -> None:
    panel.plot(rows.rise, rows[name], color="C0", linewidth=0.8, alpha=0.5)
    for sound, fill in ((True, "C0"), (False, "white")):
        mine = rows[rows.verdict.str.startswith("ok") == sound]
        bars = None if error is None else 2 * mine[error]
        panel.errorbar(
            mine.rise, mine[name], bars, fmt="o", color="C0", markerfacecolor=fill, markersize=5, linewidth=0.8,
            label=label if sound == rows.verdict.str.startswith("ok").any() else None,
        )  # fmt: skip
