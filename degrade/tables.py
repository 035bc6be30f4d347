"""From legs to tables: a row a rung with its verdict, a row a step, a row a draw and example."""

import math
from typing import Any

import numpy as np
import pandas as pd

from degrade.chain import TRACE, Leg, Scene
from degrade.cooling import Against, against
from degrade.diagnostics import Estimate, at_target, coefficient, fixed_rises
from degrade.manifest import describe
from degrade.preconditioners import choose
from degrade.request import Request
from degrade.result import Draw, Ladder
from degrade.stage import Stage
from degrade.temperature import Rung
from degrade.verdict import Verdict, judge


def assemble(
    scene: Scene,
    request: Request,
    stages: list[Stage],
    ceiling: float,
    unit: str,
) -> Ladder:
    """Judge each rung and lay everything out."""
    rows, draws, observed = [_trained(scene)], [], []
    for stage in stages:
        summary, verdict = row(scene, request, stage, ceiling)
        rows.append(summary)
        for leg in _finished(stage.legs):
            draws += _draws(scene, stage.rung, leg, verdict)
            observed += _observed(leg)
    rows += _unreached(scene, request, len(stages))
    legs = [stage.legs for stage in stages]
    table = at_target(pd.DataFrame(rows))
    return Ladder(
        model=scene.model or scene.potential.model,
        table=table,
        traces=_traces(legs),
        losses=_losses(scene, legs),
        manifest=describe(scene, request, ceiling, unit),
        selection=scene.potential.selection,
        kept=draws,
        observed=observed,
        evaluation=scene.evaluation,
    )


def _finished(legs: list[Leg]) -> list[Leg]:
    return [leg for leg in legs if not leg.fault]


def _trained(scene: Scene) -> dict[str, Any]:
    nan = float("nan")
    return {
        "rung": 0, "target": 0.0, "rise": 0.0, "rise_se": 0.0, "evaluation_rise": 0.0,
        "heldout_rise": nan if scene.heldout is None else 0.0,
        "heldout_rise_se": nan if scene.heldout is None else 0.0, "calibrated_rise": 0.0, "nbeta": math.inf,
        "llc": nan, "llc_se": nan, "virial": nan, "virial_se": nan, "weighted_virial": nan,
        "weighted_virial_se": nan, "temperature": nan, "temperature_se": nan, "heating": nan, "heating_se": nan,
        "rhat": nan, "ess": nan,
        **_cooled(None),
        "prior_fraction": 0.0, "reach": 0.0, "step_size": nan,
        "sampler": "", "preconditioner": "", "bound": "", "batch_size": 0,
        "steps": 0, "burn_in": 0, "spent": 0, "restarts": 0,
        "verdict": "trained", "reason": "the weights as given",
    }  # fmt: skip


def row(scene: Scene, request: Request, stage: Stage, ceiling: float) -> tuple[dict[str, Any], Verdict]:
    """A rung's row of the table, and its verdict by what is known now: before the way back it has not been cooled."""
    rung, legs = stage.rung, stage.legs
    finished = _finished(legs)
    plan = finished[0].plan if finished else stage.plan  # a lengthened leg has a longer plan
    faults = [leg.fault for leg in legs if leg.fault]
    base = {
        "rung": plan.rung, "target": rung.target, "nbeta": plan.nbeta, "sampler": plan.sampler,
        "preconditioner": choose(request.preconditioner, plan.batch_size >= len(scene.potential.data)),
        "bound": plan.bound,
        "batch_size": min(plan.batch_size, len(scene.potential.data)),
        "steps": plan.steps, "burn_in": plan.burn_in, "spent": stage.spent,
        "restarts": sum(leg.restarts for leg in legs),
    }  # fmt: skip
    if stage.reading is None:
        verdict = Verdict("failed", f"no chain finished ({faults[0]})")
        return _trained(scene) | dict.fromkeys(_MEASURED, float("nan")) | base | _words(verdict), verdict
    reading = stage.reading
    reach = reading.rise.mean / ceiling
    above = against(scene, finished, stage.cooled)
    verdict = judge(reading, rung.target, reach, request.chains, faults, above)
    llc = coefficient(plan.nbeta, reading.rise, reading.heating, plan.bound, reading.noise)
    measured = {
        "rise": reading.rise.mean, "rise_se": reading.rise.se, "evaluation_rise": reading.evaluation_rise.mean,
        "heldout_rise": reading.heldout_rise.mean, "heldout_rise_se": reading.heldout_rise.se,
        "calibrated_rise": reading.calibrated_rise, "llc": llc.mean,
        "llc_se": llc.se, "virial": reading.virial.mean, "virial_se": reading.virial.se,
        "weighted_virial": reading.weighted_virial.mean, "weighted_virial_se": reading.weighted_virial.se,
        "temperature": reading.temperature.mean, "temperature_se": reading.temperature.se,
        "heating": reading.heating.mean, "heating_se": reading.heating.se,
        "rhat": reading.rhat, "ess": reading.ess, **_cooled(above),
        "prior_fraction": reading.prior_fraction, "reach": reach,
        "step_size": float(np.min([leg.trace[-1, TRACE.index("step_size")] for leg in finished])),
    }  # fmt: skip
    return _trained(scene) | base | measured | _words(verdict), verdict


def _unreached(scene: Scene, request: Request, reached: int) -> list[dict[str, Any]]:
    """Rows of the rungs above the one where the last chain failed."""
    name, asked = ("target", request.rises) if request.rises else ("nbeta", request.nbetas)
    empty = _trained(scene) | dict.fromkeys(("target", "nbeta", *_MEASURED), float("nan"))
    verdict = Verdict("failed", "no chain was left: all failed on a colder rung")
    return [
        empty | {"rung": number, name: value} | _words(verdict)
        for number, value in enumerate(asked or [], start=1)
        if number > reached
    ]


def _cooled(above: Against | None) -> dict[str, float]:
    rise, pooled = (above.rise, above.rhat) if above else (Estimate(float("nan"), float("nan")), float("nan"))
    return {"cooled_rise": rise.mean, "cooled_rise_se": rise.se, "pooled_rhat": pooled}


def _words(verdict: Verdict) -> dict[str, str]:
    return {"verdict": verdict.word, "reason": verdict.reason}


_MEASURED = (
    "rise", "rise_se", "evaluation_rise", "heldout_rise", "heldout_rise_se", "calibrated_rise", "prior_fraction",
    "reach",
)  # fmt: skip


def _draws(scene: Scene, rung: Rung, leg: Leg, verdict: Verdict) -> list[Draw]:
    rises = fixed_rises(leg, scene.evaluation.baseline.numpy(), scene.evaluation.count.numpy())
    at = dict(zip(leg.plan.evaluate, rises, strict=True))
    return [
        Draw(
            rung.number,
            leg.chain,
            number,
            rung.target,
            float(at[kept.step]),
            kept.heldout_rise,
            verdict.word,
            kept.weights,
        )
        for number, kept in enumerate(leg.kept)
    ]


def _observed(leg: Leg) -> list[dict[str, Any]]:
    return [
        {
            "rung": leg.plan.rung,
            "chain": leg.chain,
            "draw": number,
            "step": kept.step,
            "observer": which,
            "result": result,
        }
        for number, kept in enumerate(leg.kept)
        for which, result in enumerate(kept.observed)
    ]


def _traces(legs: list[list[Leg]]) -> pd.DataFrame:
    """Means over each step's own minibatch, at the weights before the step."""
    columns = ["rung", "chain", "step", "kept", *TRACE]
    frames = [pd.DataFrame(columns=columns, dtype=float).astype({"rung": int, "chain": int, "step": int, "kept": bool})]
    for leg in (leg for row in legs for leg in _finished(row)):
        frame = pd.DataFrame(leg.trace, columns=list(TRACE))
        frame.insert(0, "rung", leg.plan.rung)
        frame.insert(1, "chain", leg.chain)
        frame.insert(2, "step", np.arange(len(frame)))
        frame.insert(3, "kept", frame["step"] >= leg.plan.burn_in)
        frames.append(frame)
    return pd.concat(frames[1:] or frames, ignore_index=True)


def _losses(scene: Scene, legs: list[list[Leg]]) -> pd.DataFrame:
    """Nats of each example of the fixed set: row per (rung, chain, step, example); rung 0 is w*."""
    baseline = scene.evaluation.baseline.numpy()
    frames = [_block(0, -1, [0], baseline[None])]
    for leg in (leg for row in legs for leg in _finished(row)):
        frames.append(_block(leg.plan.rung, leg.chain, list(leg.plan.evaluate), leg.losses))
    return pd.concat(frames, ignore_index=True)


def _block(rung: int, chain: int, steps: list[int], losses: np.ndarray) -> pd.DataFrame:
    looks, examples = losses.shape
    return pd.DataFrame(
        {
            "rung": np.full(losses.size, rung, dtype=np.int16),
            "chain": np.full(losses.size, chain, dtype=np.int16),
            "step": np.repeat(np.asarray(steps, dtype=np.int32), examples),
            "example": np.tile(np.arange(examples, dtype=np.int32), looks),
            "nats": losses.ravel().astype(np.float32),
        }
    )
