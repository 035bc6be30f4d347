"""What a rung's chains say about themselves: means with chain errors, R̂, effective sample size, trend.

Errors are those of chain means (chains are independent; draws within a chain are not).
"""

import math
from typing import NamedTuple

import numpy as np
import pandas as pd
from arviz_stats.base import array_stats
from scipy import stats

from degrade.chain import TRACE, Leg, Plan
from degrade.repeats import repeats
from degrade.samplers import SAMPLERS
from degrade.step_size import corrected

ADDED = 0.05  # the share of a rise that a step may add without more ado


class Estimate(NamedTuple):
    """A mean over chains and its standard error (nan for a single chain)."""

    mean: float
    se: float


class Reading(NamedTuple):
    """All that is read from the legs of a rung.

    `noise` is εR of `degrade.step_size`: minibatch noise over injected noise, 0 for the full batch.
    """

    rise: Estimate
    evaluation_rise: Estimate
    virial: Estimate
    weighted_virial: Estimate
    temperature: Estimate
    prior_fraction: float
    heldout_rise: Estimate
    calibrated_rise: float
    heating: Estimate
    bound: str
    rhat: float
    ess: float
    trend: float
    trend_p: float
    surplus: Estimate = Estimate(0.0, 0.0)
    repeats: float = 0.0
    pace: float = 1.0
    noise: float = math.nan


def over_chains(values: list[float]) -> Estimate:
    """Mean and standard error over chains: sd / √chains.

    >>> over_chains([1.0, 3.0])
    Estimate(mean=2.0, se=1.0)
    """
    if len(values) < 2:
        return Estimate(float(np.mean(values)), float("nan"))
    return Estimate(float(np.mean(values)), float(np.std(values, ddof=1) / np.sqrt(len(values))))


def trace_error(series: np.ndarray) -> float:
    """Standard error that an autocorrelated trace leaves of its mean: sd / √ESS (Geyer's effective sample size)."""
    if len(series) < 4:
        return math.nan
    spread = float(series.std(ddof=1))
    return spread / math.sqrt(array_stats.ess(series[None], method="mean")) if spread > 0 else 0.0


def of_traces(series: np.ndarray) -> Estimate:
    """Mean of a (chain, step) array, with the larger of two errors: between chains, and of their own traces.

    The first, sd over chains / √chains, sees chains that disagree but is itself off by half with four of them; the
    second, (Σ_c se_c²)^½ / chains, is steady and does not see them. nan for a single chain.
    """
    between = over_chains(list(series.mean(1)))
    within = math.sqrt(sum(trace_error(chain) ** 2 for chain in series)) / len(series)
    return between._replace(se=between.se if math.isnan(between.se) else float(np.fmax(between.se, within)))


def rhat(series: np.ndarray) -> float:
    """Rank-normalised split R̂ of a (chain, draw) array (Vehtari et al. 2021, arXiv:1903.08008)."""
    return float(array_stats.rhat(series)) if min(series.shape[0] - 1, series.shape[1] - 3) > 0 else float("nan")


def ess(series: np.ndarray) -> float:
    """Bulk effective sample size of a (chain, draw) array (Vehtari et al. 2021)."""
    return float(array_stats.ess(series)) if series.shape[1] > 3 else float("nan")


def trend(halves: np.ndarray) -> tuple[float, float]:
    """Mean change from the first to the second half, over chains, and the p value of a t test that it is 0.

    >>> trend(np.array([[1.0, 1.5], [1.0, 0.5]]))[0]
    0.0
    """
    change = halves[:, 1] - halves[:, 0]
    if len(change) < 2:
        return float(change.mean()), float("nan")
    error = change.std(ddof=1) / np.sqrt(len(change))
    if error == 0:
        return float(change.mean()), 1.0 if change.mean() == 0 else 0.0
    return float(change.mean()), float(2 * stats.t.sf(abs(change.mean() / error), len(change) - 1))


def temperature(leg: Leg) -> float:
    """Configurational temperature T_c = E[∇Uᵀ P ∇U] / E[tr K] of a chain, K = Bᵀ ∇²U B; 1 in equilibrium.

    Integration by parts with the field P∇U (Rugh 1997, doi:10.1103/PhysRevLett.78.772); stiff directions dominate it.
    """
    return float(leg.force.mean() / np.mean([kept.trace for kept in leg.kept]))


def fixed_rises(leg: Leg, baseline: np.ndarray, count: np.ndarray) -> np.ndarray:
    """Paired rise on the fixed set at each evaluation, nats per unit."""
    return (leg.losses.astype(float) - baseline.astype(float)).sum(1) / count.sum()


def read(legs: list[Leg], halved: list[Leg], plan: Plan, baseline: np.ndarray, count: np.ndarray) -> Reading:
    """Read the kept part of a rung's legs."""
    kept = np.stack([leg.trace[plan.burn_in :] for leg in legs])  # (chain, step, quantity)
    column = {name: kept[:, :, number] for number, name in enumerate(TRACE)}
    fixed = np.stack([fixed_rises(leg, baseline, count) for leg in legs])
    middle = kept.shape[1] // 2
    halves = np.stack([column["rise"][:, :middle].mean(1), column["rise"][:, middle:].mean(1)], axis=1)
    change, p = trend(halves)
    return Reading(
        rise=of_traces(column["rise"]),
        evaluation_rise=over_chains(list(fixed.mean(1))),
        virial=over_chains(list(column["virial"].mean(1))),
        weighted_virial=over_chains(list(column["weighted_virial"].mean(1))),
        temperature=over_chains([temperature(leg) for leg in legs]),
        prior_fraction=float(column["prior_fraction"].mean()),
        heldout_rise=over_chains([float(np.mean([k.heldout_rise for k in leg.kept])) for leg in legs]),
        calibrated_rise=float(np.mean([k.calibrated_rise for leg in legs for k in leg.kept])),
        heating=heating(legs, halved, plan),
        bound=plan.bound,
        rhat=rhat(fixed),
        ess=ess(fixed),
        trend=change,
        trend_p=p,
        surplus=surplus(legs, column["rise"], baseline, count),
        repeats=repeats(column["rise"]) if any(bool(q.any()) for q in plan.metric.q) else 0.0,
        pace=pace(plan),
        noise=plan.step_size * corrected(plan.metric),
    )


def surplus(legs: list[Leg], rises: np.ndarray, baseline: np.ndarray, count: np.ndarray) -> Estimate:
    """What the rise on the fixed set exceeds that on minibatches by, with the error of chains and of the set's choice.

    0 where batches are independent of the weights; above it where the chains have fitted the batches that they see.
    """
    fixed = np.stack([fixed_rises(leg, baseline, count).mean() for leg in legs])
    each = np.mean([leg.losses.mean(0) for leg in legs], axis=0) - baseline - fixed.mean() * count
    chosen = each.std(ddof=1) / np.sqrt(len(each)) / count.mean() if len(each) > 1 else np.nan
    gap = over_chains(list(fixed - rises.mean(1)))
    return Estimate(gap.mean, float(np.hypot(np.nan_to_num(gap.se), chosen)))


def pace(plan: Plan) -> float:
    """The step over the one that stability would allow if the metric's own curvature a were all: ε max(P a) / c.

    At singular points the stiffest direction is hundreds of times stiffer than that: only a tiny pace says anything.
    """
    stiffest = max(float((p * a).max()) for p, a in zip(plan.metric.p, plan.metric.a, strict=True))
    return plan.step_size * stiffest / SAMPLERS[plan.sampler].stability


def heating(legs: list[Leg], halved: list[Leg], plan: Plan) -> Estimate:
    """The part of the rise that the step size adds, by halving it: (E(ε) − E(ε/2)) / E(ε) / (1 − 2^−k), over chains.

    Richardson's rule with k = 1 for minibatch heating and k the sampler's order for discretisation (2 for positions of
    BAOAB and of Leimkuhler–Matthews, doi:10.1093/amrx/abs010), by what bounded the step. Each chain goes on at half the
    step from where it ended, and its last steps before and after are compared, so that slow fluctuations cancel; what a
    step adds sits in stiff directions, which settle within a few steps.
    """
    share = 1 - 0.5 ** (SAMPLERS[plan.sampler].order if plan.bound in ("stability", "temperature") else 1)
    column = TRACE.index("rise")
    after = {leg.chain: leg.trace[len(leg.trace) // 3 :, column] for leg in halved}
    pairs = [(leg.trace[:, column], after[leg.chain]) for leg in legs if leg.chain in after]
    if not pairs:
        return Estimate(float("nan"), float("nan"))
    level = float(np.mean([before[-len(before) // 2 :].mean() for before, _ in pairs]))
    if level == 0:  # a step so small that nothing moved
        return Estimate(float("nan"), float("nan"))
    lower = [float(before[-len(later) :].mean() - later.mean()) / level for before, later in pairs]
    return over_chains([drop / share for drop in lower])


def correctable(bound: str, noise: float) -> bool:
    """Whether what the step adds may be taken out of λ: minibatch noise, or discretisation beside it, adds it.

    A given step is the user's own, and without gradient noise a step that adds much is shortened instead.
    """
    return bound == "heating" or (bound == "stability" and noise > 0)


def coefficient(nbeta: float, rise: Estimate, added: Estimate, bound: str, noise: float) -> Estimate:
    """λ = nβ E[ΔL] at a rung: nβ times the rise of its draws.

    λ belongs to nβ, and the draws are warmer by the part η that the step adds to the rise (see `heating`). It is taken
    out, with its error, where minibatch heating bounded the step, and where stability did if it surely is above 5 %.
    Else, with minibatches, η is small beside its own noise: it is left in, and joins the error if it is above 0. On
    all data a step that adds much is shortened instead, and a given step is the user's own.

    >>> coefficient(100.0, Estimate(0.5, 0.01), Estimate(0.5, 0.0), "heating", 0.2)
    Estimate(mean=25.0, se=0.5)
    >>> coefficient(100.0, Estimate(0.5, 0.0), Estimate(0.02, 0.1), "stability", 0.2)
    Estimate(mean=50.0, se=1.0)
    """
    whole = Estimate(nbeta * rise.mean, nbeta * rise.se)
    if not (correctable(bound, noise) and math.isfinite(added.mean)):
        return whole
    if bound != "heating" and added.mean <= ADDED + min(2 * np.nan_to_num(added.se), ADDED):
        return whole._replace(se=float(np.hypot(whole.se, whole.mean * max(added.mean, 0.0))))
    left = 1 - added.mean
    return Estimate(whole.mean * left, float(np.hypot(whole.se * left, whole.mean * added.se)))


def at_target(table: pd.DataFrame) -> pd.DataFrame:
    """The ladder's table with nβ at each target, read off its own draws: `nbeta_target` and its standard error.

        ln nβ* = ln nβ + ln(λ / (nβ E*)) / κ,     κ = −d ln E / d ln nβ between the neighbouring rungs

    A rung's own nβ was frozen before its draws; this one uses them, with the error of their λ (see `coefficient`) and
    that of κ (see `_slopes`). nan where no target was given or no neighbour has a rise.
    """
    nan = np.full(len(table), np.nan)
    with np.errstate(divide="ignore", invalid="ignore"):
        rise, nbeta = (np.log(table[name].to_numpy(float)[1:]) for name in ("rise", "nbeta"))
    known = np.isfinite(rise) & np.isfinite(nbeta)
    if known.sum() > 1:
        rows = table.iloc[1:][known]
        kappa, doubt = _slopes(rise[known], nbeta[known], (rows.rise_se / rows.rise).to_numpy(float))
        value = rows.nbeta * (rows.llc / rows.nbeta / rows.target) ** (1 / kappa)
        at = np.flatnonzero(known) + 1
        nan[at] = value
        error = nan.copy()
        far = np.log(rows.llc / rows.nbeta / rows.target)
        error[at] = value * np.hypot(rows.llc_se / rows.llc / kappa, far / kappa * doubt / kappa)
        return table.assign(nbeta_target=nan, nbeta_target_se=error)
    return table.assign(nbeta_target=nan, nbeta_target_se=nan)


def _slopes(rise: np.ndarray, nbeta: np.ndarray, error: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """κ at each rung from ln E and ln nβ, at least 0.1, and its error: of the rises, and of the law not being a power.

    For the latter a quarter of what κ changes by from one side of a rung to the other; half of it at the ends.
    """
    kappa = -np.gradient(rise, nbeta)
    change = np.abs(np.diff(np.diff(rise) / np.diff(nbeta)))
    bent = np.concatenate([change[:1] / 2, change / 4, change[-1:] / 2]) if len(change) else np.abs(kappa) / 4
    reach = np.abs(np.gradient(nbeta))
    return kappa.clip(min=0.1), np.hypot(bent, np.nan_to_num(error) / reach)
