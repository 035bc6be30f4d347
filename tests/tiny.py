"""A study of a second, for tests of the command line: a ladder of a quadratic, swept."""

from pathlib import Path

import pandas as pd

import degrade
from degrade import store
from studies.sweeping import sweep_all
from tests.degrade.toys import quadratic, quadratic_loss


def size(model):
    return pd.DataFrame({"measure": ["size"], "value": [float(model.w.detach().square().sum())]})


def run(seed=0, quick=False, workers=1, out=None, rises=None, tilt=0.0):
    net, x = quadratic(cond=10, d=8, examples=128)
    ladder = degrade.ladder(
        net, x, nbetas=[100.0, 50.0], loss=quadratic_loss, gamma=1.0, steps=40, burn_in=10, draws=2, chains=2,
        evaluation=16, seed=seed, workers=workers, progress=False,
    )  # fmt: skip
    table = pd.concat(sweep_all({"natural": ladder}, [size], 2, workers, progress=False)).assign(tilt=tilt)
    with store.fresh(Path(out)) as folder:
        store.write(ladder, folder)
        table.to_parquet(folder / "probes.parquet")
    return table


def finding(table):
    return [f"{len(table)} rows"]
