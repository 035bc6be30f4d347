"""A climbed rung as it is kept: what its chains brought back, without the tensors that only its own steps needed."""

from dataclasses import dataclass, field, replace

from degrade.chain import Leg, Plan
from degrade.curvature import Curvature
from degrade.diagnostics import Reading
from degrade.metric import Metric
from degrade.temperature import Rung

NO_CURVATURE = Curvature([], [])
NO_METRIC = Metric([], [], [], [], 0.0)


@dataclass(frozen=True)
class Stage:
    """A climbed rung: what was asked, what its chains brought back (one with a fault has no draws), what that says.

    `spent` counts the steps of a chain here, lengthening included, the calibration's rounds not; `cooled` are the legs
    of the way back, if there was one.
    """

    rung: Rung
    plan: Plan
    legs: list[Leg]
    spent: int
    reading: Reading | None = None
    cooled: list[Leg] = field(default_factory=list)


def lightened(stage: Stage, cool: bool) -> Stage:
    """The stage without curvature and weights at its end; the metric stays if chains are to come back through it."""
    plan = stage.plan if cool else bare(stage.plan)
    rung = replace(stage.rung, curvature=NO_CURVATURE, vector=[])
    return replace(stage, rung=rung, plan=plan, legs=[slim(leg) for leg in stage.legs])


def slim(leg: Leg) -> Leg:
    """A leg without the weights at its end and the metric of its steps; its draws stay."""
    return replace(leg, weights=[], plan=bare(leg.plan))


def bare(plan: Plan) -> Plan:
    """A plan without its metric."""
    return replace(plan, metric=NO_METRIC, vector=None)
