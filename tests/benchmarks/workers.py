"""Wall time of a rung of the model that ships by one process, by two, and by two workers of a Ray cluster.

The same ladder, to the same bits, by each way in turn: losses at w*, calibration, draws of four chains. The figure is
the median over rounds of the ratio of wall times, on a machine with nothing else to do. What a way takes to begin its
processes counts; the cluster, if Ray is installed, is there before. `first` is the round in which Ray's processes are
new, and is left out of the medians.
"""

import time
from contextlib import ExitStack
from importlib.util import find_spec
from typing import Any

import numpy as np
import pandas as pd

import degrade
from degrade.places import Place, placed

RISES, CHAINS, STEPS, ROUNDS = [0.6], 4, 600, 3
WAYS: dict[str, dict[str, Any]] = {  # named, or within the cluster's block they would run there
    "one process": {"workers": 1, "engine": "processes"},
    "two processes": {"workers": 2, "engine": "processes"},
}
RAY: dict[str, dict[str, Any]] = {"two workers of Ray": {"workers": 2, "engine": "ray"}}


def run(quick: bool = False) -> pd.DataFrame:
    """A row a way: seconds, how many times as fast as one process, over the time of two processes."""
    from studies.subject import open_subject

    ways = WAYS | (RAY if find_spec("ray") else {})
    subject = open_subject("mixture")
    with ExitStack() as stack:
        if len(ways) > len(WAYS):
            stack.enter_context(placed(Place("ray"), 2))
        rounds = [
            {name: climbed(subject, 40 if quick else STEPS, way) for name, way in ways.items()}
            for _ in range(1 + (1 if quick else ROUNDS))
        ]
    same = [found for each in rounds for _, found in each.values()]
    if any(not one.equals(same[0]) for one in same):
        raise AssertionError("the ways gave different tables, and should give the same bits")
    return rows([{name: seconds for name, (seconds, _) in each.items()} for each in rounds])


def climbed(subject: Any, steps: int, way: dict[str, Any]) -> tuple[float, pd.DataFrame]:
    """Seconds of a ladder, and its table."""
    begin = time.perf_counter()
    ladder = degrade.ladder(
        subject.model, subject.data, RISES, width=subject.organism.width, chains=CHAINS, steps=steps, draws=2,
        progress=False, **way,
    )  # fmt: skip
    return time.perf_counter() - begin, ladder.table


def rows(rounds: list[dict[str, float]]) -> pd.DataFrame:
    """Medians over all rounds but the first, of seconds and of ratios within a round."""
    counted = pd.DataFrame(rounds[1:])
    one, two = counted["one process"], counted["two processes"]
    return pd.DataFrame(
        [
            {"way": name, "seconds": round(float(np.median(spent)), 1),
             "times as fast as one": round(float(np.median(one / spent)), 2),
             "over two processes": round(float(np.median(spent / two)), 3),
             "first": round(rounds[0][str(name)], 1), "rounds": len(counted)}
            for name, spent in counted.items()
        ]
    )  # fmt: skip
