"""Two copies of one model, sampled with different seeds: how often a study calls a difference that is not there.

Forty pairs of ladders of each of two smallest models: `skills`, from the package's sampler to the call, and `twins`,
where every behaviour breaks within the ladder, so that every number is tested. `generalisation` has its own test, in
`test_generalisation_calls`. At a nominal 5 % more than 7 of 40 have a chance of 0.001.
"""

import pytest
from scipy import stats

from studies.finetuning_ladders import BASE
from studies.finetuning_penalty import OVERALL, penalties
from tests.studies import skills, twins

REPEATS = 40
MOST = stats.binom.ppf(0.999, REPEATS, 0.05)

pytestmark = pytest.mark.slow


def of_skills(pair):
    return skills.sweep({"copy": skills.table_model()}, {BASE: 2 * pair + 10, "copy": 2 * pair + 11})


@pytest.fixture(scope="module", params=[of_skills, twins.pair], ids=["skills", "twins"])
def pairs(request):
    """The sweeps of both ladders of each pair."""
    return [request.param(pair) for pair in range(REPEATS)]


def test_false_penalties_of_equal_copies_stay_nominal(pairs):
    """Studies with a call of any behaviour, average or quantity."""
    found = [penalties(table) for table in pairs]
    assert sum((one["call"] != "undecided").any() for one in found) <= MOST


def test_false_differences_of_equal_dials_stay_nominal(pairs):
    assert sum(skills.calls_of_dials(table).any() for table in pairs) <= MOST


def test_where_every_behaviour_crosses_every_ratio_is_tested():
    found = penalties(twins.pair(0))
    ratios = found[found["quantity"] == "P1 ratio"]
    assert len(ratios) == twins.SKILLS + 1 and ratios["p"].notna().all()
    assert (ratios["label"] == OVERALL).sum() == 1
