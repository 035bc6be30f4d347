import pandas as pd

from probes import sweep
from studies import isotropic
from studies.sweeping import sweep_all
from tests.degrade.test_ladder import short_ladder


def size(model):
    return pd.DataFrame({"measure": ["size"], "value": [float(model[0].weight.square().sum())]})


def ordered(table):
    keys = ["dial", "rung", "chain", "draw", "probe", "measure"]
    return table.sort_values(keys, ignore_index=True)


def test_parts_add_up_to_the_sweep_and_workers_do_not_matter():
    ladder = short_ladder()
    dials = {"natural": ladder, "isotropic": isotropic.climb(ladder, 2, 2, 0)}
    whole = pd.concat([sweep(dial, [size], draws=2, progress=False).assign(dial=name) for name, dial in dials.items()])
    for workers in (1, 2):
        parts = pd.concat(sweep_all(dials, [size], 2, workers, progress=False))
        pd.testing.assert_frame_equal(ordered(whole), ordered(parts), check_exact=True)
