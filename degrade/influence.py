"""What the losses of single examples say over the draws of a rung: complexity, influence, kernel, susceptibility.

Everything here is a moment of ℓ_i(w), the nats of example i of the fixed evaluation set, at every look of every chain:
one matrix product for all pairs of examples. Standard errors are over chains, which are independent of each other.

    per-example LLC      λ_i = nβ (E[ℓ_i(w)] − ℓ_i(w*)) / u            Lau et al. 2023 (arXiv:2308.12108), per example
    Bayesian influence   BIF(i, φ) = −Cov(ℓ_i, φ)                      Kreer et al. 2025 (arXiv:2509.26544)
    loss kernel          K(i, j) = Cov(ℓ_i, ℓ_j), or its correlation   Adam et al. 2025 (arXiv:2509.26537)
    susceptibility       χ_i = −Cov(L − L(w*), ℓ_i/u − L)              Baker et al. 2025 (arXiv:2504.18274)

u is the mean count of an evaluation example and L = Σ ℓ_i / Σ count: λ_i averages to nβ times the rise.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from torch import nn

from degrade.covariance import Estimates, correlate, covariance
from degrade.data import Examples
from degrade.losses import Loss
from degrade.potential import example_nats
from degrade.result import Ladder


@dataclass(frozen=True, eq=False)
class ExampleLosses:
    """An observer for `degrade.ladder(observe=[...])`: nats of each example of a second data set, at each draw.

    With it, `bayesian(ladder, 0)` is the influence of the evaluation examples on each of the second set's losses.
    """

    loss: Loss
    data: Any

    def __call__(self, model: nn.Module) -> np.ndarray:
        """Nats of each example, shape (examples,)."""
        device = next(model.parameters()).device
        return example_nats(model, self.loss, Examples(self.data), device)[0].cpu().numpy()


def per_example(ladder: Ladder, rung: int | None = None) -> pd.DataFrame:
    """Local learning coefficient of each example, λ_i = nβ (E[ℓ_i(w)] − ℓ_i(w*)) / u; their mean is the rung's.

    Args:
        ladder: a ladder, live or loaded.
        rung: which rung; needed where there are several.

    Returns:
        A row an evaluation example: example (its place in the data), llc, se (over chains), nats (at w*), count.
    """
    rung = the_rung(ladder, rung)
    each = chain_llcs(ladder, rung)
    return pd.DataFrame(
        {
            "example": _places(ladder, each.shape[1]),
            "llc": each.mean(0),
            "se": _over_chains(each),
            "nats": baseline(ladder),
            "count": ladder.manifest["counts"],
        }
    )


def kernel(ladder: Ladder, rung: int | None = None, correlation: bool = False) -> Estimates:
    """The loss kernel K(i, j) = Cov(ℓ_i, ℓ_j) of all pairs of evaluation examples, in nats², or its correlation.

    Returns:
        Estimates of shape (examples, examples), in the order of `per_example`.
    """
    nats = losses(ladder, the_rung(ladder, rung))
    return correlate(nats) if correlation else covariance(nats, nats)


def bayesian(ladder: Ladder, observable: int | np.ndarray, rung: int | None = None) -> Estimates:
    """The Bayesian influence of each evaluation example on an observable, −Cov(ℓ_i, φ), in nats × unit of φ.

    Weighing example i by β_i in a potential of N examples changes E[φ] at the rate dE[φ]/dβ_i = nβ/(N u) · BIF(i, φ).

    Args:
        ladder: a ladder; for an observer, one in memory.
        observable: the number of an observer in `observe=[...]` whose results are numbers or vectors of q numbers; or
            an array of values of shape (chains, looks) or (chains, looks, q), in the order of `ladder.losses`.
        rung: which rung; needed where there are several.

    Returns:
        Estimates of shape (examples, q).

    Raises:
        ValueError: if there is no such observer, or the shapes do not fit.
    """
    rung = the_rung(ladder, rung)
    nats = losses(ladder, rung)
    if isinstance(observable, int):
        nats, values = _observed(ladder, rung, observable, nats)
    else:
        values = np.asarray(observable, dtype=float)
    values = values.reshape(*values.shape[:2], -1)
    if values.shape[:2] != nats.shape[:2]:
        raise ValueError(f"the observable has shape {values.shape[:2]}; expected (chains, looks) = {nats.shape[:2]}")
    value, se = covariance(nats, values)
    return Estimates(-value, se)


def susceptibility(ladder: Ladder, rung: int | None = None, groups: object = None) -> pd.DataFrame:
    """How the LLC answers to a shift of the data: χ = (1/nβ) ∂E[L − L(w*)]/∂h at h = 0 of the data (1 − h) q + h q'.

    By linear response χ = −Cov(L − L(w*), L' − L), under the ladder's own law: for the susceptibility of a component,
    restrict the ladder to it (`only="blocks.1.attn.head.3"`). q is the evaluation set; q' each of its examples, or
    groups of them. Negative: with more of this data in the potential, the rise would be smaller.

    Args:
        ladder: a ladder, live or loaded.
        rung: which rung; needed where there are several.
        groups: a label for each evaluation example (in the order of `per_example`), or for each example of the data.

    Returns:
        A row an example (example, susceptibility, se), or a row a group (group, examples, susceptibility, se); nats².
    """
    nats = losses(ladder, the_rung(ladder, rung))
    counts = np.asarray(ladder.manifest["counts"])
    total = nats.sum(2, keepdims=True) / counts.sum()
    if groups is None:
        named: dict[str, Any] = {"example": _places(ladder, nats.shape[2])}
        shifted = nats / counts.mean() - total
    else:
        members = membership(ladder, groups)
        named = {"group": list(members), "examples": [int(rows.sum()) for rows in members.values()]}
        means = [nats[:, :, rows].sum(2) / counts[rows].sum() for rows in members.values()]
        shifted = np.stack(means, 2) - total
    value, se = covariance(shifted, total)
    return pd.DataFrame({**named, "susceptibility": -value[:, 0], "se": se[:, 0]})


def the_rung(ladder: Ladder, rung: int | None) -> int:
    """The rung that was named, or the only one.

    Raises:
        ValueError: if several could be meant, or no chain finished the one that is.
    """
    known = sorted(int(number) for number in ladder.losses.rung.unique() if number > 0)
    if rung is None and len(known) == 1:
        return known[0]
    if rung not in known:
        raise ValueError(f"rung={rung}; expected one of the rungs that chains finished: {known or 'there is none'}")
    return rung


def losses(ladder: Ladder, rung: int) -> np.ndarray:
    """Nats of each evaluation example at each look of a rung, float64, shape (chains, looks, examples)."""
    mine = ladder.losses[ladder.losses.rung == rung]
    return mine.nats.to_numpy(dtype=float).reshape(mine.chain.nunique(), -1, len(baseline(ladder)))


def baseline(ladder: Ladder) -> np.ndarray:
    """Nats of each evaluation example at w*, float64, shape (examples,)."""
    return ladder.losses.nats[ladder.losses.rung == 0].to_numpy(dtype=float)


def chain_llcs(ladder: Ladder, rung: int) -> np.ndarray:
    """λ_i by each chain alone, shape (chains, examples)."""
    nbeta = float(ladder.table.set_index("rung").nbeta[rung])
    return nbeta * (losses(ladder, rung).mean(1) - baseline(ladder)) / np.mean(ladder.manifest["counts"])


def membership(ladder: Ladder, groups: object) -> dict[object, np.ndarray]:
    """Which evaluation examples belong to each group: {label: boolean array}.

    Raises:
        ValueError: if there is neither a label an evaluation example nor one an example of the data.
    """
    labels, size, total = np.asarray(groups), len(ladder.manifest["counts"]), ladder.manifest["examples"]
    if labels.shape == (total,):
        labels = labels[_places(ladder, size)]
    if labels.shape != (size,):
        raise ValueError(
            f"the groups have shape {labels.shape}; expected a label for each of the {size} evaluation examples, or for"
            f" each of the {total} examples of the data"
        )
    return {label: labels == label for label in np.unique(labels).tolist()}


def _places(ladder: Ladder, size: int) -> np.ndarray:
    known = ladder.manifest.get("evaluation")
    return np.arange(size) if known is None else np.asarray(known)


def _over_chains(each: np.ndarray) -> np.ndarray:
    chains = len(each)
    return each.std(0, ddof=1) / np.sqrt(chains) if chains > 1 else np.full(each.shape[1:], np.nan)


def _observed(ladder: Ladder, rung: int, observer: int, nats: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Losses and observations where both were taken: looks at which a draw was kept."""
    seen = [row for row in ladder.observed if row["rung"] == rung and row["observer"] == observer]
    if not seen:
        raise ValueError(f"observer {observer} saw no draw of rung {rung}; give it to the ladder as observe=[...]")
    mine = ladder.losses[ladder.losses.rung == rung]
    steps = {c: part.step.unique().tolist() for c, part in mine.groupby("chain")}
    kept = {c: [row for row in seen if row["chain"] == c] for c in steps}
    picked = [
        nats[number, [steps[c].index(row["step"]) for row in rows]] for number, (c, rows) in enumerate(kept.items())
    ]
    values = [[np.asarray(row["result"], dtype=float) for row in rows] for rows in kept.values()]
    return np.stack(picked), np.asarray(values)
