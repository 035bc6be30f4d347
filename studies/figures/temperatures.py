"""Complexity at two temperatures: λ along the ladder, the shares of its parts at both, and λ over training."""

from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, NullFormatter, NullLocator

from studies.figures import style

COLD, HOT = "n / ln n", "natural gap"
LOOKS = {COLD: style.Line(style.COLOURS[0], "o", "-"), HOT: style.Line(style.COLOURS[1], "s", (0, (5, 1.5)))}
TITLES = {
    ("layers", "ladder"): "layers\n(all weights sampled)",
    ("heads", "ladder"): "heads and MLPs\n(all weights sampled)",
    ("kinds", "ladder"): "kinds of examples\n(all weights sampled)",
    ("layers", "refined"): "layers\n(each sampled alone)",
    ("heads", "refined"): "heads and MLPs\n(each sampled alone)",
}


@style.styled
def complexity(found: Any) -> Figure:
    """λ and the rise against nβ; below, the share of each part at both temperatures, a panel a family.

    Args:
        found: What `studies.temperatures_reading.read` returned.
    """
    families = _families(found.changes)
    most = max((len(rows) for _, rows in families), default=0)
    figure = Figure(figsize=(7.6, 3.2 + (1.5 + 0.17 * most) * bool(families)), layout="constrained")
    grid = figure.add_gridspec(2 if families else 1, 1, height_ratios=[2.6, 1.2 + 0.17 * most][: 1 + bool(families)])
    above = grid[0].subgridspec(1, 2)
    _coefficients(figure.add_subplot(above[0]), found)
    _rises(figure.add_subplot(above[1]), found)
    if families:
        below = grid[1].subgridspec(1, len(families))
        for place, (name, rows) in enumerate(families):
            _shares(figure.add_subplot(below[place]), rows, name)
    _legend(figure)
    figure.supxlabel(style.note(NOTE, 6.9), fontsize=7.5)
    return figure


@style.styled
def training_complexity(rows: pd.DataFrame) -> Figure:
    """λ over training at both temperatures: the whole model, and each layer's.

    Args:
        rows: What `studies.temperatures_reading.over_training` returned.
    """
    figure = Figure(figsize=(7.6, 3.4), layout="constrained")
    panels = figure.subplots(1, 3)
    end = float(rows["step"].max()) * 2  # the trained model stands where the next doubling would be
    for panel, (name, family) in zip(panels, (("whole", "whole"), (COLD, "layers"), (HOT, "layers")), strict=True):
        mine = rows[rows["family"] == family].assign(place=rows["step"].fillna(end))
        if family == "whole":
            for at, part in mine.groupby("at", sort=False):
                _curve(panel, part, "place", LOOKS[str(at)], str(at), log=False)
            panel.set_ylabel("local learning coefficient λ (dimensionless)")
        else:
            labels = list(dict.fromkeys(mine["part"]))
            for label, look in zip(labels, style.lines([chr(97 + k) for k in range(len(labels))]), strict=True):
                here = mine[(mine["part"] == label) & (mine["at"] == name)]
                _curve(panel, here, "place", look, label, log=False)
        panel.set_title("whole model" if name == "whole" else f"layers at {name}")
        _steps(panel, rows["step"], end)
        panel.axhline(0, color="0.7", linewidth=0.7)
        panel.legend(frameon=False, fontsize=6.5)
    figure.supxlabel("training step (log axis)\n" + style.note(TRAINING, 6.9), fontsize=7.5)
    return figure


def _coefficients(panel: Axes, found: Any) -> None:
    """λ against nβ: the ladder, other widths, subsets of the data at their own n / ln n."""
    _temperatures(panel, found)
    rungs = found.rungs[found.rungs["verdict"] != "failed"]
    _curve(panel, rungs, "nbeta", style.Line("black", "o", "-"), "all sampled data")
    cold, hot = (one.nbeta for one in found.scales)
    own = float(found.rungs["width"].iloc[0])
    others = [row for row in found.widths.to_dict("records") if not np.isclose(row["width"], own)]
    for row, colour, marker in zip(others, style.COLOURS[2:], style.MARKERS[2:], strict=False):
        both = pd.DataFrame(
            [{"nbeta": place, "llc": row[name], "low": row[f"{name}_low"], "high": row[f"{name}_high"],
              "verdict": row["verdict"]} for name, place in (("before", cold), ("after", hot))]
        )  # fmt: skip
        _curve(panel, both, "nbeta", style.Line(colour, marker, (0, (1, 1))), f"width {row['width']:.2g}")
    subsets = found.rows[found.rows["log_ratio"].notna() | (found.rows["n"] < found.rows["n"].max())]
    subsets = subsets[subsets["verdict"] != "failed"]
    if len(subsets):
        _curve(panel, subsets, "nbeta", style.Line(style.COLOURS[3], "v", ""), "fewer data, each\nat its n / ln n")
    panel.set_yscale("log")
    _log_ticks(panel)
    _crosses(panel, found)
    panel.set_ylabel("local learning coefficient λ\n(dimensionless, log axis)")
    panel.legend(frameon=False, fontsize=6.5, loc="best")


def _rises(panel: Axes, found: Any) -> None:
    """The rise against nβ on both axes, less what the step adds to it, and the natural gap."""
    _temperatures(panel, found)
    rungs = found.rungs[(found.rungs["verdict"] != "failed") & (found.rungs["rise"] > 0)]
    left = rungs["llc"] / (rungs["nbeta"] * rungs["rise"])
    for name, column, look in (
        ("sampling data", "rise", style.Line("black", "o", "-")),
        ("held-out text", "heldout_rise", style.Line(style.COLOURS[2], "^", (0, (5, 1.5)))),
    ):
        _curve(panel, rungs.assign(llc=rungs[column] * left, low=np.nan, high=np.nan), "nbeta", look, name)
    gap, error = float(found.gap["llc"]), float(found.gap["shared"])
    panel.axhspan(max(gap - 1.96 * error, gap / 30), gap + 1.96 * error, color="0.85", linewidth=0, zorder=0)
    panel.axhline(gap, color="0.3", linewidth=0.9)
    panel.text(0.02, (gap + 1.96 * error) * 1.02, f"{found.gap['part']}, {gap:.3g}", ha="left", va="bottom",
               fontsize=6.5, transform=panel.get_yaxis_transform())  # fmt: skip
    panel.set_yscale("log")
    if rungs.empty:
        panel.set_ylim(gap / 3, gap * 3)
    _log_ticks(panel)
    _crosses(panel, found)
    panel.set_ylabel(f"loss rise, less what the step adds\n({style.UNIT}, log axis)")
    panel.legend(frameon=False, fontsize=6.5, loc="best")


def _temperatures(panel: Axes, found: Any) -> None:
    """The axis of nβ with both temperatures."""
    panel.set_xscale("log")
    places = np.array([*found.rungs["nbeta"], *found.rows["nbeta"]], float)
    panel.set_xlim(places.min() / 1.6, places.max() * 1.6)
    _log_ticks(panel, "x")
    panel.set_xlabel("inverse temperature nβ\n(per token, log axis; hot left, cold right)")
    for one in found.scales:
        if np.isfinite(one.nbeta):
            look = LOOKS[one.name]
            panel.axvspan(one.low, one.high, color=look.colour, alpha=0.15, linewidth=0)
            panel.axvline(one.nbeta, color=look.colour, linewidth=0.9, linestyle=look.dashes)


def _crosses(panel: Axes, found: Any) -> None:
    """Failed rungs, on the axis."""
    low = panel.get_ylim()[0]
    for nbeta in found.rungs.loc[found.rungs["verdict"] == "failed", "nbeta"]:
        panel.plot([nbeta], [low], "x", color="0.3", markersize=4.5, clip_on=False, zorder=5, scaley=False)


def _curve(panel: Axes, rows: pd.DataFrame, across: str, look: style.Line, label: str, log: bool = True) -> None:
    """A curve with intervals; on a log axis what is not positive is left out, and intervals end at 30 times or y/30."""
    rows = rows[rows["llc"].notna() & ((rows["llc"] > 0) | (not log))].sort_values(across)
    x, y = rows[across].to_numpy(float), rows["llc"].to_numpy(float)
    low, high = rows["low"].fillna(rows["llc"]).to_numpy(float), rows["high"].fillna(rows["llc"]).to_numpy(float)
    line = {"linestyle": look.dashes} if look.dashes else {"linestyle": ""}
    panel.plot(x, y, color=look.colour, **line)
    low, high = (np.maximum(low, y / 30), np.minimum(high, 30 * y)) if log else (low, high)
    panel.vlines(x, low, high, color=look.colour, linewidth=0.9, alpha=0.7)
    hollow = (rows["verdict"].map(style.kind) == "suspect").to_numpy()
    for some, fill in ((~hollow, look.colour), (hollow, "white")):
        if some.any():
            panel.plot(x[some], y[some], look.marker, color=look.colour, markerfacecolor=fill, markersize=4, zorder=4)
    panel.plot([], [], look.marker, color=look.colour, markersize=4, label=label, **line)


def _families(changes: pd.DataFrame) -> list[tuple[tuple[str, str], pd.DataFrame]]:
    if changes.empty:
        return []
    known = changes[changes["before"].notna() & changes["after"].notna()]
    groups = {(str(f), str(q)): rows for (q, f), rows in known.groupby(["question", "family"], sort=False)}
    return [(name, groups[name]) for name in TITLES if name in groups]


def _shares(panel: Axes, rows: pd.DataFrame, name: tuple[str, str]) -> None:
    """The share of each part at both temperatures with intervals, and what is called changed."""
    rows = rows.sort_values("before", ascending=False).reset_index(drop=True)
    for height, row in enumerate(rows.to_dict("records")):
        panel.axhline(height, color="0.93", linewidth=0.6, zorder=-1)
        for at, column, shift in ((COLD, "before", -0.14), (HOT, "after", 0.14)):
            look, place = LOOKS[at], height + shift
            limits = 100 * np.array([row[f"{column}_low"], row[f"{column}_high"]])
            if np.isfinite(limits).all():
                panel.plot(limits, [place, place], color=look.colour, linewidth=0.9)
            fill = "white" if style.kind(row["verdict"]) == "suspect" else look.colour
            panel.plot(
                [100 * row[column]], [place], look.marker, color=look.colour, markerfacecolor=fill, markersize=3.6
            )
        q = f"q = {row['q']:.1g}" if np.isfinite(row["q"]) else "no test"
        weight = "bold" if row["changed"] else "normal"
        panel.annotate(
            q, (1.01, height), xycoords=("axes fraction", "data"), fontsize=6, va="center", fontweight=weight
        )
    panel.set_yticks(range(len(rows)), list(rows["part"]), fontsize=6.5)
    panel.set_ylim(len(rows) - 0.4, -0.6)
    shown = 100 * rows[["before", "after"]].to_numpy(float)
    room = 0.35 * (shown.max() - min(0.0, shown.min()))
    panel.set_xlim(min(0.0, shown.min()) - room / 2, shown.max() + room)
    panel.axvline(0, color="0.7", linewidth=0.7)
    panel.set_xlabel("share of λ (%)")
    panel.set_title(TITLES[name], fontsize=7.5)


def _steps(panel: Axes, steps: pd.Series, end: float) -> None:
    panel.set_xscale("log")
    ticks = sorted(steps.dropna().unique())[::2]
    panel.set_xticks([*ticks, end], [*(f"{tick:.0f}" for tick in ticks), "trained"], fontsize=6.5, rotation=45)
    panel.xaxis.set_minor_formatter(NullFormatter())
    panel.minorticks_off()


def _log_ticks(panel: Axes, which: str = "y") -> None:
    """Ticks at 1, 2, 5 times ten to the k; over little more than a decade at more, over many decades at 1."""
    axis = panel.yaxis if which == "y" else panel.xaxis
    low, high = axis.get_view_interval()
    ends = ((5, [1, 1.5, 2, 3, 4, 5, 6, 8]), (15, [1, 2, 3, 5, 7]), (50, [1, 2, 5]), (np.inf, [1]))
    steps = next(steps for most, steps in ends if high / low < most)
    decades = 10.0 ** np.arange(np.floor(np.log10(low)), np.ceil(np.log10(high)) + 1)
    axis.set_ticks([tick for tick in np.outer(decades, steps).ravel() if low <= tick <= high])
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}" if value >= 100 else f"{value:g}"))
    axis.set_minor_locator(NullLocator())


def _legend(figure: Figure) -> None:
    handles = [
        Line2D([], [], color=look.colour, marker=look.marker, linestyle=look.dashes, markersize=4, label=f"at {name}")
        for name, look in LOOKS.items()
    ]
    figure.legend(handles=handles, loc="outside upper center", ncols=2, frameon=False)


NOTE = (
    "Bars: 95 % t intervals over chains; bands: 95 % intervals of the natural-gap temperature and of the gap. Hollow:"
    " the verdict behind it is suspect; crosses: failed rungs, left out. q: Benjamini–Hochberg over the parts of a"
    " panel, of no change of the share between the temperatures; bold: called, at a false discovery rate of 5 %."
)
TRAINING = (
    "Temperatures are those of the trained model, the same for all checkpoints. Bars: 95 % t intervals over chains."
    " Hollow: the verdict is suspect. Below zero: the checkpoint is no minimum at that scale."
)
