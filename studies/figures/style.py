"""What the figures share: type, colours, the loss axis with its marks, and how a verdict looks."""

import io
import re
import textwrap
from collections.abc import Callable, Iterator, Sequence
from functools import wraps
from typing import Any, NamedTuple, ParamSpec

import numpy as np
import pandas as pd
from cycler import cycler
from matplotlib import colormaps, rc_context
from matplotlib.axes import Axes
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter

P = ParamSpec("P")

STYLE: Any = {
    "font.family": "DejaVu Sans",
    "font.size": 8,
    "axes.titlesize": 8.5,
    "axes.labelsize": 8,
    "xtick.labelsize": 7.5,
    "ytick.labelsize": 7.5,
    "legend.fontsize": 7.5,
    "figure.titlesize": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.7,
    "lines.linewidth": 1.2,
    "figure.facecolor": "white",
    "figure.constrained_layout.h_pad": 0.06,
    "figure.constrained_layout.w_pad": 0.06,
}
# Okabe & Ito (2008), told apart by colour-blind readers; its yellow is darkened, being too faint for lines on paper.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#000000", "#E69F00", "#56B4E9", "#A08C00")
STYLE["axes.prop_cycle"] = cycler(color=COLOURS)
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<")
LINES = (
    "-",
    (0, (5, 1.5)),
    (0, (1, 1)),
    (0, (4, 1, 1, 1)),
    (0, (7, 2)),
    (0, (2, 1)),
    (0, (5, 1, 1, 1, 1, 1)),
    (0, (3, 3)),
)
VERDICT_COLOURS = {"ok": "#0072B2", "suspect": "#E69F00", "failed": "#D55E00", "trained": "#000000"}
MARK_REACH = 4.0  # a mark further than this factor from the ladder is named below the figure instead of drawn
NARROW = 3.0  # a loss axis spans this factor at least, so that it has ticks
UNIT = "nats per token"


class Line(NamedTuple):
    """How one curve looks: colour, marker and line style all differ within a panel."""

    colour: Any
    marker: str
    dashes: Any


def styled(draw: Callable[P, Figure]) -> Callable[P, Figure]:
    """Draw under the package's type and colours, whatever the caller's settings, and leave those as they were."""

    @wraps(draw)
    def inner(*args: P.args, **kwargs: P.kwargs) -> Figure:
        with rc_context(STYLE):
            return draw(*args, **kwargs)

    return inner


def png(figure: Figure, dpi: int = 200) -> bytes:
    """The figure as a PNG: the same figure gives the same bytes."""
    out = io.BytesIO()
    figure.savefig(out, format="png", dpi=dpi, metadata={"Software": None})
    return out.getvalue()


def lines(labels: Sequence[str]) -> Iterator[Line]:
    """A look for each label; levels (labels that all hold a number) run from dark to light, in the given order."""
    shades = colormaps["viridis"](np.linspace(0.0, 0.88, max(len(labels), 2)))
    for place in range(len(labels)):
        colour = to_hex(shades[place]) if numbered(labels) else COLOURS[place % len(COLOURS)]
        yield Line(colour, MARKERS[place % len(MARKERS)], LINES[place % len(LINES)])


def numbered(labels: Sequence[str]) -> bool:
    """Whether the labels are levels of one thing, such as numbers of copies."""
    return len(labels) > 2 and all(re.search(r"\d", label) for label in labels)


def ordered(labels: list[str]) -> list[str]:
    """Levels in the order of their numbers; other labels as they are."""
    return sorted(labels, key=lambda label: [int(n) for n in re.findall(r"\d+", label)]) if numbered(labels) else labels


def dials(frame: pd.DataFrame) -> list[str]:
    """The dials of a table, the natural one first."""
    return sorted(frame["dial"].unique(), key=lambda dial: (dial != "natural", dial))


def kind(verdict: str) -> str:
    """The verdict without its qualification: ok, suspect, failed or trained."""
    word = verdict.split(" ")[0]
    return word if word in VERDICT_COLOURS else "suspect"


def tally(verdicts: Sequence[str]) -> str:
    """Verdicts of the rungs of a dial, counted, in short lines: "7 rungs: 6 ok (heated only), 1 suspect"."""
    counts = pd.Series([word for word in verdicts if word != "trained"], dtype=str).value_counts()
    words = ", ".join(f"{count} {word}".replace(" ", "\u00a0") for word, count in counts.items())
    lines = textwrap.wrap(f"{counts.sum()} rungs: {words}", 34)
    return "\n".join(lines).replace("\u00a0", " ") if len(counts) else "no rungs"


def log_axis(panel: Axes, low: float, high: float, start: float | None = None) -> None:
    """A logarithmic loss axis from `low` to `high`, ticks at 1, 2, 5 times ten to the k, w* at `start`."""
    panel.set_xscale("log")
    if high < NARROW * low:
        low, high = (low * high / NARROW) ** 0.5, (low * high * NARROW) ** 0.5
    panel.set_xlim((start or low) / 1.15, high * 1.15)
    decades = 10.0 ** np.arange(np.floor(np.log10(low)), np.ceil(np.log10(high)) + 1)
    wide = high / low > 60
    ticks = [t for t in np.outer(decades, [1, 3] if wide else [1, 2, 5]).ravel() if low / 1.1 <= t <= high * 1.1]
    names = [f"{tick:g}" for tick in ticks]
    panel.set_xticks([start, *ticks] if start else ticks, ["w*", *names] if start else names)
    panel.xaxis.set_minor_formatter(NullFormatter())
    panel.minorticks_off()
    if start:
        middle = np.sqrt(start * low)
        panel.plot(
            [middle], [0], marker=(2, 0, -30), color="black", markersize=7, clip_on=False, zorder=5, **_floor(panel)
        )


def limits(rises: pd.Series, marks: pd.Series | None) -> tuple[float, float, pd.Series]:
    """Ends of the loss axis, and the marks that fall on it or near it."""
    positive = rises[rises > 0]
    low, high = float(positive.min()), float(positive.max())
    given = pd.Series(dtype=float) if marks is None else marks
    near = given[(given > low / MARK_REACH) & (given < high * MARK_REACH)]
    return min([low, *near]), max([high, *near]), near


def draw_marks(panels: Sequence[Axes], marks: pd.Series, names: bool) -> float:
    """Thin vertical lines at the marks, their names above the panels (moved apart) if asked; the points that takes."""
    for panel in panels:
        for value in marks:
            panel.axvline(value, color="0.55", linewidth=0.7, linestyle=(0, (1, 1.5)), zorder=0)
        if names and len(marks):
            _name_marks(panel, marks.sort_values())
    return 12 + 4.2 * max(map(len, marks.index)) if names and len(marks) else 6.0


def draw_rungs(panel: Axes, rungs: pd.DataFrame) -> None:
    """The rungs of one dial on the loss axis: filled, hollow when suspect, a cross when failed."""
    for rise, verdict in rungs.loc[(rungs["rung"] > 0) & (rungs["rise"] > 0), ["rise", "verdict"]].itertuples(
        index=False
    ):
        shape = "x" if kind(verdict) == "failed" else "o"
        fill = "white" if kind(verdict) == "suspect" else "0.3"
        place: dict[str, Any] = {"transform": panel.get_xaxis_transform(), "clip_on": False, "zorder": 5}
        panel.plot([rise], [0], shape, color="0.3", markerfacecolor=fill, markersize=3 + (shape == "x"), **place)


def note(text: str, width: float) -> str:
    """The text below a figure, in lines that fit its width in inches."""
    return "\n".join(line for part in text.split("\n") for line in textwrap.wrap(part, int(width * 17.5)))


def spread(places: Sequence[float], gap: float) -> np.ndarray:
    """Ascending places moved as little as needed to lie at least `gap` apart.

    >>> spread([0.1, 0.12, 0.5], 0.1)
    array([0.06, 0.16, 0.5 ])
    """
    shift = gap * np.arange(len(places))
    fit = pd.Series(np.asarray(places, float) - shift)
    while (fit.diff().iloc[1:] < -1e-12).any():
        fit = _pool(fit)
    return fit.to_numpy() + shift


def _pool(values: pd.Series) -> pd.Series:
    falls = (values.diff() < -1e-12) | (values.diff().abs() <= 1e-12)
    return values.groupby((~falls).cumsum()).transform("mean")


def _floor(panel: Axes) -> dict[str, Any]:
    return {"transform": panel.get_xaxis_transform()}


def _name_marks(panel: Axes, marks: pd.Series) -> None:
    left, right = np.log(panel.get_xlim())
    across = (np.log(marks.to_numpy(float)) - left) / (right - left)
    inches, tall = np.array(panel.get_window_extent().size) / panel.figure.dpi
    for x, at, name in zip(across, spread(across, 0.125 / inches), marks.index, strict=True):
        leader = {"arrowstyle": "-", "linewidth": 0.5, "color": "0.55", "shrinkA": 0, "shrinkB": 0, "relpos": (0.5, 0)}
        written = panel.annotate(
            str(name),
            xy=(x, 1),
            xytext=(at, 1 + 0.08 / tall),
            xycoords="axes fraction",
            rotation=90,
            fontsize=6.5,
            color="0.3",
            ha="center",
            va="bottom",
            arrowprops=leader,
        )
        written.set_in_layout(False)
