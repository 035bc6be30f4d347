"""Two copies of one model, sampled with different seeds: how often a study calls a difference that is not there.

Forty pairs of ladders of the smallest model, from the sampler to the call; `generalisation` has its own twins, in
`test_generalisation_calls`. At a nominal 5 % more than 7 of 40 have a chance of 0.001.
"""

import pandas as pd
import pytest
from scipy import stats

from studies.finetuning_ladders import BASE
from studies.finetuning_penalty import OVERALL, penalties
from tests.studies import skills

REPEATS = 40
MOST = stats.binom.ppf(0.999, REPEATS, 0.05)

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def pairs():
    """The sweeps of both ladders of each pair."""
    copies = {"copy": skills.table_model()}
    return [skills.sweep(copies, {BASE: 2 * pair + 10, "copy": 2 * pair + 11}) for pair in range(REPEATS)]


def test_false_penalties_of_equal_copies_stay_nominal(pairs):
    """Families with a call: the behaviours under each quantity, and each average by itself."""
    found = pd.concat([penalties(table).assign(pair=pair) for pair, table in enumerate(pairs)])
    called = found.assign(overall=found.label == OVERALL, called=found.call != "undecided")
    wrong = called.groupby(["quantity", "overall", "pair"]).called.any().groupby(["quantity", "overall"]).sum()
    assert (wrong <= MOST).all(), wrong.to_dict()


def test_false_differences_of_equal_dials_stay_nominal(pairs):
    assert sum(skills.calls_of_dials(table).any() for table in pairs) <= MOST
