"""The step size: found from the stiffest direction and from the noise of the gradient, where the chains are.

    stability:  ε ≤ c / λmax(K),                K = Bᵀ ∇²U B with P = B Bᵀ, c of the sampler
    heating:    ε S ≤ 0.045  and  ε R ≤ 0.4,     R = Σ K_ii P_i q_i / (4 tr K),   S = tr(K Bᵀ C B) / (4 tr K) − R

C is the covariance of the gradient of a minibatch and q its diagonal. Minibatch noise heats direction k of K by
ε (Bᵀ C B)_kk / 4; the noise correction takes the diagonal of it out of every coordinate. What is left raises the
configurational temperature by ε S: the diagonal correction cannot follow noise that lives in few directions, which are
just those that carry the loss. ε R is the share of the injected noise that the correction takes away.
"""

from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from degrade.metric import Metric
from degrade.noise import Key, Tensors, batch_index, normal_like
from degrade.potential import Potential
from degrade.samplers import AUTO, SAMPLERS, Sampler

HEATING, TAKEN = 0.045, 0.4
REACH = 0.03
BATCH = 128
FIRST, AGAIN = 8, 2
PAIRS = 4
MARGIN = 1.5


class Found(NamedTuple):
    """What is known of the step at some weights: stiffest curvature and its direction, S / nβ and R / nβ of the bound.

    S and R grow as nβ, so that a look at one temperature tells about another. Where λmax was less than what the metric
    takes for the stiffest curvature, `sharpness` is the latter, and the place is `flat`.
    """

    sharpness: float
    heat: float
    taken: float
    vector: list[Tensor]
    flat: bool = False


class Bound(NamedTuple):
    """A step size and what bounded it: "stability", "heating", or "temperature" (heat without gradient noise)."""

    step_size: float
    name: str


def bound(found: Sequence[Found], nbeta: float, sampler: Sampler, seen: float = 0.0) -> Bound:
    """The step size that several looks allow: the stiffest of them, and their mean heat.

    Looks at minibatches count by 1.5 times their median: one in ten is four times stiffer than the loss is, the
    samplers' bounds leave a factor 2.7 to 4 to instability, and a step of the bound itself adds a tenth to the rise.

    `seen` is a heat (S / nβ) that a measured temperature told of; it counts if it is higher.
    """
    noisy = any(x.taken > 0 for x in found)
    stiff = [x.sharpness for x in found]
    stable = sampler.stability / max(MARGIN * float(np.median(stiff)) if noisy else max(stiff), 1e-12)
    heat = nbeta * max(seen, float(np.mean([x.heat for x in found])))
    cool = 1 / max(heat / HEATING, nbeta * max(x.taken for x in found) / TAKEN, 1e-12)
    return Bound(min(stable, cool), "stability" if stable < cool else "heating" if noisy else "temperature")


def choose(name: str, found: Sequence[Found], nbeta: float, seen: float = 0.0) -> str:
    """The sampler of a name; the default is `sgld` where heating limits its step, `baoab` where stability does."""
    if name != AUTO:
        return name
    return "sgld" if bound(found, nbeta, SAMPLERS["sgld"], seen).name != "stability" else "baoab"


def look(
    potential: Potential,
    weights: list[Tensor],
    metric: Metric,
    nbeta: float,
    batch_size: int,
    key: Key,
    step: int = 0,
    vector: list[Tensor] | None = None,
) -> Found:
    """Measure curvature and heating at some weights. A known vector saves most of the iterations."""
    seen, vector = sharpest(potential, weights, metric, nbeta, key, step, vector, batch_size)
    # at a singular w* all is flat: what the metric has seen nearby (max P a) bounds the first step
    sharpness = max(seen, *(float((p * a).max()) for p, a in zip(metric.p, metric.a, strict=True)))
    flat = seen < sharpness
    if batch_size >= len(potential.data):
        return Found(sharpness, 0.0, 0.0, vector, flat)
    pairs = range(PAIRS * step, PAIRS * (step + 1))
    whole = sum(heating(potential, weights, metric, nbeta, batch_size, key, pair) for pair in pairs) / PAIRS
    taken = corrected(metric)
    return Found(sharpness, (whole - taken) / nbeta, taken / nbeta, vector, flat)


def sharpest(
    potential: Potential,
    weights: list[Tensor],
    metric: Metric,
    nbeta: float,
    key: Key,
    step: int,
    vector: list[Tensor] | None = None,
    batch_size: int = 0,
    again: int = AGAIN,
) -> tuple[float, list[Tensor]]:
    """λmax(K) and its direction, on a fresh batch of 128 examples: smaller batches look stiffer than the loss is.

    On all data, where steps are on all data. Directions are handed on unturned, for metrics with another basis.
    """
    rounds = FIRST if vector is None else again
    start = normal_like(key, "power", step, weights) if vector is None else metric.turned(vector)
    examples = len(potential.data)
    index = batch_index(key, "power", step, examples, examples if batch_size >= examples else min(BATCH, examples))
    size, vector = power_iteration(potential, weights, metric, nbeta, index, start, rounds)
    return size, metric.unturned(vector)


def heating(
    potential: Potential, weights: list[Tensor], metric: Metric, nbeta: float, batch_size: int, key: Key, pair: int
) -> float:
    """S + R, the heating without correction, from one pair of minibatches: 4 gradients."""
    examples = len(potential.data)
    batches = [batch_index(key, purpose, pair, examples, batch_size) for purpose in ("heat one", "heat two", "probe")]
    one, two = (potential.gradient(weights, index)[1] for index in batches[:2])
    # n = Bᵀ (g₁ − g₂) nβ has covariance 2 Bᵀ C B, so nᵀ K n / 2 averages to tr(K Bᵀ C B)
    noise = metric.into([(x - y) * nbeta for x, y in _spent(one, two)])
    size = max(_norm(noise), 1e-30)
    torch._foreach_mul_(noise, 1 / size)
    bent = curve(potential, weights, metric, nbeta, batches[2], noise)
    return size**2 * _dot(noise, bent) / 2 / (4 * _dot(metric.p, metric.a))


def corrected(metric: Metric) -> float:
    """R: what the diagonal noise correction takes out of the configurational temperature, over ε."""
    both = zip(metric.p, metric.a, metric.q, strict=True)
    return sum(float((p.double() ** 2 * a * q).sum()) for p, a, q in both) / (4 * _dot(metric.p, metric.a))


def hutchinson(potential: Potential, weights: list[Tensor], metric: Metric, nbeta: float, key: Key, step: int) -> float:
    """zᵀ K z with random signs z: averages to the trace of K (Hutchinson 1989)."""
    signs = [x.sign() for x in normal_like(key, "probe", step, weights)]
    index = batch_index(key, "probe", step, len(potential.data), min(BATCH, len(potential.data)))
    return _dot(curve(potential, weights, metric, nbeta, index, signs), signs)


def curve(
    potential: Potential,
    weights: list[Tensor],
    metric: Metric,
    nbeta: float,
    index: np.ndarray,
    vector: Tensors,
    reach: float = REACH,
) -> list[Tensor]:
    """K v on one batch, by central differences of the gradient (two gradients).

    Differences work with any attention kernel and any activation. The displacement, `reach` in units of the law's own
    spread along v, sees the curvature on the scale that a step feels.
    """
    shift, plain = metric.out(vector), potential.plain  # a control variate would drop out of the difference
    # displaced weights go into the model one by one: there is no list of them
    ahead, behind = (
        plain.gradient((torch.add(w, v, alpha=side * reach) for w, v in zip(weights, shift, strict=True)), index)[1]
        for side in (1, -1)
    )
    changes = zip(_spent(ahead, behind), shift, potential.precision, strict=True)
    return metric.into([((x - y) * (nbeta / (2 * reach))).add_(s, alpha=a) for (x, y), s, a in changes])


def power_iteration(
    potential: Potential,
    weights: list[Tensor],
    metric: Metric,
    nbeta: float,
    index: np.ndarray,
    vector: list[Tensor],
    rounds: int,
) -> tuple[float, list[Tensor]]:
    """The largest |eigenvalue| of K on one batch and its direction; two gradients a round."""
    size = 1.0
    for _ in range(rounds):
        vector = curve(potential, weights, metric, nbeta, index, _normalised(vector))
        size = _norm(vector)
    return size, _normalised(vector)


def _spent(one: list[Tensor], two: list[Tensor]) -> Iterator[tuple[Tensor, Tensor]]:
    """Pairs from two lists, which let go of them."""
    while one:
        yield one.pop(0), two.pop(0)


def _norm(tensors: Tensors) -> float:
    return float(torch.stack(torch._foreach_norm(tensors)).norm())


def _dot(one: Iterable[Tensor], two: Iterable[Tensor]) -> float:
    return sum(float((a * b).double().sum()) for a, b in zip(one, two, strict=True))


def _normalised(tensors: Tensors) -> list[Tensor]:
    return list(torch._foreach_mul(tensors, 1.0 / max(_norm(tensors), 1e-30)))
