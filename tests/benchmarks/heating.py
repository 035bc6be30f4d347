"""Minibatch heating: LLC and verdict against batch size and step size, with and without noise correction.

The step is given in units of the one at which, by the package's own look at the gradient noise, an uncorrected sampler
would be 3 % too hot. Systems: a Gaussian location model along the axes (600 directions), one that is rotated (noise
in directions that a diagonal correction cannot follow), and 32 deep linear networks side by side on noisy labels. Runs
start in equilibrium: a full-batch run comes before. `left` has what the published table of `degrade.llc` would have:
the LLC after what halving the step tells is taken out.

The control variate replaces ĝ(w) by ĝ(w) − ĝ(w*) + ∇L(w*), both on one batch: two gradients a step. `noise` is the
variance that it leaves over that of ĝ(w) alone, in the metric's coordinates. Twice the batch costs as much and leaves a
half: it pays below that. The last rows are of the model that ships, at the states of four rungs.
"""

import math
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

import degrade
from degrade.chain import Leg, Plan, Scene, advance
from degrade.curvature import average
from degrade.diagnostics import coefficient, read
from degrade.metric import Metric
from degrade.noise import Key, batch_index
from degrade.parameters import lent, select
from degrade.pilot import Settings, bind
from degrade.potential import Potential
from degrade.preconditioners import PRECONDITIONERS
from degrade.request import Request
from degrade.samplers import SAMPLERS
from degrade.scene import set_scene
from degrade.step_size import bound, look
from degrade.variate import controlled
from degrade.verdict import judge
from tests.degrade.toys import exact_rise, quadratic, quadratic_loss, rotated, rotated_loss
from tests.truths.targets import balanced
from tests.truths.test_linear_networks import NETWORKS, layers_of, reference

HOT = 0.03
CHAINS, COPIES, PAIRS = 4, 32, 24
MULTIPLES = (1, 3, 10, 30)
CASES = [  # batch size, sampler, correction
    (32, "sgld", "none"), (32, "sgld", "noise"), (32, "sgld", "control variate"), (32, "baoab", "none"),
    (32, "baoab", "noise"), (8, "sgld", "none"), (8, "sgld", "noise"),
]  # fmt: skip
SHIPPED = (1e6, 1e5, 1e4, 1e3)


class System(NamedTuple):
    """A model whose exact λ is known, in a scene, at a place of its equilibrium."""

    name: str
    scene: Scene
    nbeta: float
    exact: float
    exact_se: float
    states: list[list[Tensor]]


class Networks(nn.Module):
    """Copies of a deep linear network, each with its own weights, on the same inputs and noisy labels."""

    def __init__(self, layers: list[np.ndarray]) -> None:
        super().__init__()
        stacks = [torch.as_tensor(w, dtype=torch.float32).repeat(COPIES, 1, 1) for w in layers]
        self.layers = nn.ParameterList(nn.Parameter(stack) for stack in stacks)

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = x @ layer.mT
        return x


def run(quick: bool = False, shipped: bool = True) -> pd.DataFrame:
    """A row a system, batch size, sampler, correction and step; and a row a rung of the model that ships."""
    torch.set_num_threads(1)
    rows: list[dict[str, Any]] = []
    for build in (aligned, turned, networks)[: 1 if quick else None]:
        model, data, loss, gamma, nbeta, exact = build()
        selection = select(model)
        with lent(model, selection):
            request = Request(nbetas=[nbeta], gamma=gamma, evaluation=len(data[0]) if type(data) is tuple else 1000)
            scene = set_scene(model, selection, data, loss, request, None, (), False)
            system = settled(System(build.__name__, scene, nbeta, *exact, []), 150 if quick else 800)
            for case in CASES[: 3 if quick else None]:
                rows += heated(system, *case, 200 if quick else 1000)
    return pd.DataFrame(rows + (variates() if shipped and not quick else []))


def aligned() -> tuple[Any, ...]:
    """Noise along the axes, covariance h a example: all of it in the diagonal."""
    net, x = quadratic(cond=100, d=600, examples=1000)
    return net, x, quadratic_loss, 1.0, 1000.0, (1000.0 * exact_rise(net.h, 1000.0, 1.0), 0.0)


def turned() -> tuple[Any, ...]:
    """The same law in directions that follow no axis."""
    net, x = rotated(d=300, cond=100, examples=1000)
    return net, x, rotated_loss, 1.0, 1000.0, (1000.0 * exact_rise(net.h, 1000.0, 1.0), 0.0)


def networks() -> tuple[Any, ...]:
    """4-3-4 at a singular point, labels with unit noise, each network with its own examples' noise in common."""
    layers = layers_of(*NETWORKS["4-3-4"])
    target = torch.as_tensor(layers[1] @ layers[0], dtype=torch.float32)
    signs = balanced(8).repeat(16, 1)
    x = signs[:, :4]
    lam, error = reference("4-3-4", 1000.0, 100.0)
    return Networks(layers), (x, x @ target.T + signs[:, 4:]), squares, 100.0, 1000.0, (COPIES * lam, COPIES * error)


def squares(model: nn.Module, batch: Any) -> Tensor:
    """½ Σ_c ‖f_c(x) − y‖² of each example."""
    x, y = batch
    return ((model(x) - y) ** 2).sum((0, 2)) / 2


def metric_at(scene: Scene, nbeta: float, batch_size: int, states: list[list[Tensor]], fits: int) -> Metric:
    """The metric of a rung whose chains stand at these states."""
    preconditioner, settings = PRECONDITIONERS["fisher"], Settings(0, 1, batch_size, "sgld", "fisher", None, 1e9)
    seen = [
        preconditioner.fit(scene.potential, states[number % len(states)], Key(0, chain=number), 0, None)
        for number in range(fits)
    ]
    return bind(scene, settings, average(seen), nbeta)


def settled(system: System, steps: int) -> System:
    """Chains that have come to equilibrium with the full batch."""
    scene, whole = system.scene, len(system.scene.potential.data)
    states = [scene.potential.center] * CHAINS
    for stage in ("calibration", "production"):
        metric = metric_at(scene, system.nbeta, whole, states, 2 * CHAINS)
        found = look(scene.potential, states[0], metric, system.nbeta, whole, Key(0))
        step = bound([found], system.nbeta, SAMPLERS["baoab"]).step_size / 2
        plan = Plan(1, system.nbeta, metric, step, "", steps // 2, 0, whole, "baoab", tracked=False)
        states = [advance(scene, plan, Key(0, stage, chain=c), state).weights for c, state in enumerate(states)]
    return system._replace(states=states)


def heated(system: System, batch_size: int, sampler: str, correction: str, most: int) -> list[dict[str, Any]]:
    """A row a multiple of the step at which an uncorrected sampler is 3 % too hot."""
    scene, nbeta, states = system.scene, system.nbeta, system.states
    metric = metric_at(scene, nbeta, batch_size, states, 3 * CHAINS)
    looks = [look(scene.potential, state, metric, nbeta, batch_size, Key(0, chain=c)) for c, state in enumerate(states)]
    unit = HOT / (nbeta * float(np.mean([x.heat + x.taken for x in looks])))
    stable = SAMPLERS[sampler].stability / max(x.sharpness for x in looks)
    if correction == "control variate":
        scene = controlled(scene)
    if correction != "noise":
        metric = replace(metric, q=[torch.zeros_like(q) for q in metric.q])
    about = {"system": system.name, "batch": batch_size, "sampler": sampler, "correction": correction}
    about["noise"] = left(system.scene.potential, states, metric, batch_size) if scene is not system.scene else math.nan
    rows = []
    for multiple in MULTIPLES:
        if multiple * unit <= stable:
            plan = planned(metric, nbeta, batch_size, sampler, multiple * unit, most)
            rows.append(about | {"multiple": multiple, **measured(system, scene, plan)})
    return rows


def planned(metric: Metric, nbeta: float, batch_size: int, sampler: str, step_size: float, most: int) -> Plan:
    """Two memories to heat up, and up to 150 to draw from."""
    memory = SAMPLERS[sampler].memory / step_size
    burn_in = math.ceil(min(2 * memory, most / 2))
    steps = burn_in + round(min(max(150 * memory, most / 4), most))
    looks = tuple(np.linspace(steps, burn_in, 32, endpoint=False).astype(int).tolist())[::-1]
    return Plan(
        1, nbeta, metric, step_size, "heating", steps, burn_in, batch_size, sampler, looks, looks[::4], looks,
        tracked=False,
    )  # fmt: skip


def measured(system: System, scene: Scene, plan: Plan) -> dict[str, Any]:
    """Legs from equilibrium, read and judged as a rung is, with short legs at half the step."""
    legs = [advance(scene, plan, Key(0, chain=c), state) for c, state in enumerate(system.states)]
    steps = min(max((plan.steps - plan.burn_in) // 3, 30), 90)
    half = replace(plan, step_size=plan.step_size / 2, steps=steps, burn_in=0, evaluate=(), keep=(), forces=())
    halved = [advance(scene, half, Key(0, "halved", chain=leg.chain), leg.weights) for leg in sound(legs)]
    faults = [leg.fault for leg in legs if leg.fault]
    about = {"step size": plan.step_size, "steps": plan.steps, "exact": system.exact}
    if len(faults) == len(legs):
        return about | {"verdict": "failed", "reason": faults[0]}
    reading = read(sound(legs), sound(halved), plan, scene.evaluation.baseline.numpy(), scene.evaluation.count.numpy())
    verdict = judge(reading, math.nan, 0.0, len(legs), faults)
    raw = system.nbeta * reading.rise.mean
    llc = coefficient(system.nbeta, reading.rise, reading.heating, plan.bound, reading.noise)
    return about | {
        "llc": raw, "bias %": 100 * (raw / system.exact - 1),
        "se %": 100 * math.hypot(system.nbeta * reading.rise.se, system.exact_se) / system.exact,
        "left %": 100 * (llc.mean / system.exact - 1), "left se %": 100 * llc.se / system.exact,
        "temperature": reading.temperature.mean, "heating": reading.heating.mean, "verdict": verdict.word,
        "reason": verdict.reason,
    }  # fmt: skip


def sound(legs: list[Leg]) -> list[Leg]:
    """Those that finished."""
    return [leg for leg in legs if not leg.fault]


def left(potential: Potential, states: list[list[Tensor]], metric: Metric, batch_size: int) -> float:
    """Variance of minibatch gradients less those at w* on the same batch, over that of minibatch gradients."""
    sums = np.zeros(2)
    for pair in range(PAIRS):
        key, state = Key(0, turn=pair), states[pair % len(states)]
        batches = [
            batch_index(key, purpose, 0, len(potential.data), batch_size) for purpose in ("heat one", "heat two")
        ]
        here, there = (
            torch._foreach_sub(*(potential.gradient(weights, index)[1] for index in batches))
            for weights in (state, potential.center)
        )
        for number, noise in enumerate((here, torch._foreach_sub(here, there))):
            sums[number] += float(torch.stack(torch._foreach_norm(metric.into(noise))).square().sum())
    return float(sums[1] / sums[0])


def variates() -> list[dict[str, Any]]:
    """What the control variate leaves at the states of short rungs of the model that ships."""
    from studies.subject import open_subject

    subject = open_subject("mixture")
    ladder = degrade.ladder(
        subject.model, subject.data, nbetas=SHIPPED, width=0.32, chains=2, draws=1, steps=80, burn_in=40,
        evaluation=128, progress=False,
    )  # fmt: skip
    selection, rows = select(ladder.model), []
    with lent(ladder.model, selection):
        request = Request(nbetas=list(SHIPPED), width=0.32)
        scene = set_scene(ladder.model, selection, subject.data, degrade.next_token_loss, request, None, (), False)
        for rung, nbeta in enumerate(SHIPPED, start=1):
            states = [draw.weights for draw in ladder.draws(rung) if draw.weights]
            metric = metric_at(scene, nbeta, 32, states, 4)
            rows.append({
                "system": f"mixture, rise {ladder.table.rise[rung]:.3g}", "batch": 32, "correction": "control variate",
                "noise": left(scene.potential, states, metric, 32),
            })  # fmt: skip
    return rows


def summary(table: pd.DataFrame) -> pd.DataFrame:
    """A row a case: bias in % at each multiple of the uncorrected step, and the verdicts."""
    rows = []
    for key, part in table.groupby(["system", "batch", "sampler", "correction"], sort=False, dropna=False):
        line = dict(zip(("system", "batch", "sampler", "correction"), key, strict=True))
        line["noise left"] = round(part.noise.mean(), 3)
        for one in part.dropna(subset=["multiple"]).itertuples():
            line[f"x {one.multiple:g}"] = f"{part.loc[one.Index, 'bias %']:+.1f} ± {part.loc[one.Index, 'se %']:.1f}"
        line["verdicts"] = ", ".join(str(word) for word in part.verdict.dropna())
        rows.append(line)
    return pd.DataFrame(rows).fillna("")
