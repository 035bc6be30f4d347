"""When a chain is looked at, and how two parts of one chain become one."""

from dataclasses import replace

import numpy as np

from degrade.chain import Leg, Plan

LOOKS = 20


def scheduled(plan: Plan, draws: int, number: int = LOOKS) -> Plan:
    """Looks and draws spread evenly over the part after burn-in, the last step included."""
    number = max(number, draws)
    looks = np.linspace(plan.steps, plan.burn_in, number, endpoint=False).astype(int)
    evaluate = tuple(sorted({max(int(step), 1) for step in looks}))
    chosen = np.linspace(len(evaluate) - 1, 0, draws, endpoint=False).round().astype(int)
    return replace(plan, evaluate=evaluate, forces=evaluate, keep=tuple(sorted(evaluate[i] for i in chosen)))


def onward(plan: Plan, draws: int) -> Plan:
    """Half as long again as the part that draws were taken from, without burn-in, from where the chains stand."""
    return scheduled(replace(plan, steps=(plan.steps - plan.burn_in + 1) // 2, burn_in=0), draws, LOOKS // 2)


def _shifted(plan: Plan, by: int) -> Plan:
    evaluate, forces, keep = ([step + by for step in steps] for steps in (plan.evaluate, plan.forces, plan.keep))
    return replace(plan, evaluate=tuple(evaluate), forces=tuple(forces), keep=tuple(keep))


def joined(leg: Leg, more: Leg, draws: int) -> Leg:
    """Two parts of one chain as one leg, with as many draws as asked, evenly taken from both."""
    first, second = leg.plan, _shifted(more.plan, leg.plan.steps)
    kept = leg.kept + [k._replace(step=k.step + first.steps) for k in more.kept]
    chosen = np.linspace(len(kept) - 1, 0, draws, endpoint=False).round().astype(int)
    kept = [kept[i] for i in sorted(chosen)]
    plan = replace(
        first,
        steps=first.steps + second.steps,
        evaluate=first.evaluate + second.evaluate,
        forces=first.forces + second.forces,
        keep=tuple(k.step for k in kept),
    )
    return replace(
        more,
        plan=plan,
        trace=np.concatenate([leg.trace, more.trace]),
        losses=np.concatenate([leg.losses, more.losses]),
        force=np.concatenate([leg.force, more.force]),
        kept=kept,
        restarts=leg.restarts + more.restarts,
    )
