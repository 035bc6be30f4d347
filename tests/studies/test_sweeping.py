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


def test_the_trained_model_is_asked_once_for_all_dials():
    ladder, asked = short_ladder(), []

    def counted(model):
        asked.append(float(model[0].weight.sum()))
        return size(model)

    home = float(ladder.model[0].weight.sum())
    parts = sweep_all({"natural": ladder, "isotropic": isotropic.climb(ladder, 2, 2, 0)}, [counted], 2, 1, False)
    assert asked.count(home) == 1
    table = pd.concat(parts)
    assert table[table["rung"] == 0].groupby("dial").size().to_dict() == {"isotropic": 1, "natural": 1}
