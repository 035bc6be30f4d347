"""What `degrade.llc` returns: a local learning coefficient, its error, its parts, and the ladder behind it."""

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from degrade import influence
from degrade.diagnostics import over_chains, trace_error
from degrade.result import Ladder

if TYPE_CHECKING:
    import xarray
    from matplotlib.figure import Figure


@dataclass(frozen=True, eq=False)
class LLC:
    """A local learning coefficient with what stands behind it: `ladder`, whose first rung it is.

    A second, hotter rung is there only where chains were cooled from it (`cool=True`).
    """

    ladder: Ladder

    @property
    def llc(self) -> float:
        """λ̂, dimensionless: mean over chains of nβ times the paired rise, burn-in left out.

        Where minibatch heating bounded the step, less what it adds to the rise (`degrade.diagnostics.coefficient`).
        """
        return float(self._row.llc)

    @property
    def se(self) -> float:
        """Standard error of λ̂: the larger of what chains differ by and what their own autocorrelated traces leave.

        sd over chains / √chains holds all noise, but is itself uncertain with few chains; the traces' own error,
        (Σ_c se_c²)^½ / chains by effective sample size, does not see chains that disagree. Both hold the noise of the
        minibatches on which L(w) − L(w*) is taken. With minibatches the error of the part that the step adds comes on
        top, or that part itself where it was left in (`degrade.diagnostics.coefficient`).
        """
        errors = self.errors
        known = [errors[name] for name in ("chain", "within_chain") if math.isfinite(errors[name])]
        return math.hypot(max(known), errors["heating"]) if known else math.nan

    @property
    def errors(self) -> dict[str, float]:
        """What `se` is made of: {"chain": between chains, "within_chain": of their traces, "heating": of the step}."""
        each, row = self.per_chain, self._row
        within = float(np.sqrt((each.se**2).sum())) / len(each) if len(each) else math.nan
        left = row.llc / (row.nbeta * row.rise) if row.rise else 1.0
        # what `llc_se` holds beyond the rise's own error: see `degrade.diagnostics.coefficient`
        heating = math.sqrt(max(row.llc_se**2 - (row.nbeta * row.rise_se * left) ** 2, 0.0))
        return {
            "chain": over_chains(list(each.llc)).se * float(left) if len(each) else math.nan,
            "within_chain": within * float(left),
            "heating": float(np.nan_to_num(heating)),
        }

    @property
    def per_chain(self) -> pd.DataFrame:
        """A row a chain that finished: chain, llc (as it rose), se (of its own trace), ess (effective draws)."""
        rows = [
            {"chain": chain, **_of_trace(part.rise.to_numpy(float), self.nbeta)}
            for chain, part in self.traces[self.traces.kept].groupby("chain")
        ]
        return pd.DataFrame(rows, columns=["chain", "llc", "se", "ess"])

    @property
    def per_example(self) -> pd.DataFrame:
        """λ̂ of each example of the evaluation set, see `degrade.influence.per_example`."""
        return influence.per_example(self.ladder, 1)

    def on(self, groups: object) -> pd.DataFrame:
        """λ̂ of subsets of the evaluation set under the one law that was sampled: nβ (E[L_g(w)] − L_g(w*)).

        Args:
            groups: a label for each evaluation example (in the order of `per_example`) or each example of the data.

        Returns:
            A row a group: group, examples, llc, se (over chains).
        """
        each, counts = influence.chain_llcs(self.ladder, 1), np.asarray(self.ladder.manifest["counts"])
        rows = []
        for group, mine in influence.membership(self.ladder, groups).items():
            means = each[:, mine].sum(1) * counts.mean() / counts[mine].sum()
            error = means.std(ddof=1) / math.sqrt(len(means)) if len(means) > 1 else math.nan
            rows.append({"group": group, "examples": int(mine.sum()), "llc": means.mean(), "se": error})
        return pd.DataFrame(rows)

    @property
    def nbeta(self) -> float:
        """Inverse temperature, per unit of the loss."""
        return float(self._row.nbeta)

    @property
    def verdict(self) -> str:
        """The rung's verdict: "ok...", "suspect" or "failed"; `reason` says why."""
        return str(self._row.verdict)

    @property
    def reason(self) -> str:
        """The verdict's reason, in words."""
        return str(self._row.reason)

    @property
    def table(self) -> pd.DataFrame:
        """One row: llc, se, n and its unit, the neighbourhood, sampled parameters, and the rung's own columns."""
        manifest, row = self.ladder.manifest, self._row.to_dict()
        given = {name: manifest["settings"][name] for name in ("width", "gamma")}
        first = {"llc": self.llc, "se": self.se, "nbeta": self.nbeta, "verdict": self.verdict, "reason": self.reason}
        about = {"n": manifest["n"], "unit": manifest["unit"], **given, "sampled": manifest["sampled"]}
        rest = {name: value for name, value in row.items() if name not in {*first, "rung", "target", "llc_se"}}
        return pd.DataFrame([first | about | rest])

    @property
    def traces(self) -> pd.DataFrame:
        """A row a step of each chain: the ladder's traces, with nβ times the minibatch's paired rise as `llc`."""
        mine = self.ladder.traces[self.ladder.traces.rung == 1]
        return mine.assign(llc=self.nbeta * mine.rise)

    def plot_traces(self) -> "Figure":
        """Rise against step, a line a chain, the discarded part shaded."""
        return self.ladder.plot_traces()

    def to_xarray(self) -> "xarray.Dataset":
        """Everything as an xarray.Dataset over (chain, step), (chain, look, example); needs xarray.

        Raises:
            ImportError: if xarray is not installed.
        """
        return _dataset(self)

    @property
    def _row(self) -> Any:
        return self.ladder.table.iloc[1]

    def __repr__(self) -> str:
        manifest = self.ladder.manifest
        return (
            f"LLC({self.llc:.4g} ± {self.se:.2g} at nbeta={self.nbeta:.4g}, n={manifest['n']:.4g} {manifest['unit']}s,"
            f" verdict {self.verdict!r})"
        )


def _of_trace(rise: np.ndarray, nbeta: float) -> dict[str, float]:
    """λ̂ by one chain, with the error that its autocorrelated trace leaves (Geyer's effective sample size)."""
    error = trace_error(rise)
    ess = float(rise.var(ddof=1)) / error**2 if error > 0 else math.nan
    return {"llc": nbeta * float(rise.mean()), "se": nbeta * error, "ess": ess}


def _dataset(result: LLC) -> "xarray.Dataset":
    import xarray

    traces, nats = result.traces, influence.losses(result.ladder, 1)
    steps = {
        name: (("chain", "step"), traces.pivot_table(index="chain", columns="step", values=name).to_numpy())
        for name in traces.columns
        if name not in ("rung", "chain", "step", "kept")
    }
    looks = {
        "nats": (("chain", "look", "example"), nats),
        "baseline": (("example",), influence.baseline(result.ladder)),
    }
    first = traces[traces.chain == traces.chain.min()]
    coordinates = {
        "chain": traces.chain.unique(),
        "step": first.step.to_numpy(),
        "kept": ("step", first.kept.to_numpy(bool)),
        "example": result.per_example.example.to_numpy(),
    }
    row = result.table.iloc[0]
    about = {name: row[name] for name in ("llc", "se", "nbeta", "n", "unit", "verdict", "reason")}
    return xarray.Dataset({**steps, **looks}, coordinates, about)
