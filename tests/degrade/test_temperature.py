"""How many rounds a calibration on all data takes: one where the basin is even, and all where it is not."""

import pytest

import degrade
from degrade import temperature
from tests.degrade.toys import quadratic, quadratic_loss
from tests.truths.targets import Monomials, as_loss, balanced


@pytest.fixture
def rounds(monkeypatch):
    """How many chains took part in each round."""
    seen, plain = [], temperature.each

    def counting(engine, scene, task, calls):
        seen.append(len(calls))
        return plain(engine, scene, task, calls)

    monkeypatch.setattr(temperature, "each", counting)
    return seen


def test_a_quadratic_takes_one_round_and_a_look(rounds):
    net, x = quadratic(cond=100, d=40)
    result = degrade.llc(net, x, nbeta=300.0, gamma=1.0, loss=quadratic_loss, chains=3, draws=1, progress=False)
    assert rounds == [3]
    assert result.verdict.startswith("ok")


@pytest.mark.parametrize("k", [2, 3])
def test_a_flat_minimum_takes_all_rounds_though_nothing_looks_stiff_at_either_end_of_the_first(rounds, k):
    """At w* only the neighbourhood holds w^2k: the metric takes that for the stiffest there is, before and after."""
    net, x = Monomials((k,), 64), balanced(64)
    degrade.llc(net, x, nbeta=100.0, gamma=0.1, loss=as_loss, chains=3, draws=1, progress=False)
    assert rounds == [3] * temperature.MEMORY


def test_places_are_alike_if_both_are_stiff_and_equally_so():
    found = temperature.Found(2.0, 0.0, 0.0, [])
    assert temperature._alike(found, found._replace(sharpness=2.1))
    assert not temperature._alike(found, found._replace(sharpness=2.5))
    assert not temperature._alike(found._replace(flat=True), found._replace(flat=True))


def test_where_the_search_begins_changes_how_long_it_takes_and_not_what_is_found(rounds):
    """From the quadratic basin's own guess and from a hundredth of it: the target is met within 4 standard errors."""
    net, x = quadratic(cond=10, d=20)
    given = {"loss": quadratic_loss, "gamma": 1.0, "batch_size": 64, "chains": 3, "draws": 1, "progress": False}
    known = degrade.ladder(net, x, rises=[0.1], **given).table.iloc[1]
    usual, wrong = list(rounds), known["nbeta"] / 100
    rounds.clear()
    told = degrade.ladder(net, x, rises=[0.1], first_nbeta=float(wrong), **given).table.iloc[1]
    assert len(rounds) > len(usual)
    for row in (known, told):
        assert abs(row["rise"] - 0.1) < 0.05 * 0.1 + 4 * row["rise_se"]
    with pytest.raises(ValueError, match=r"first_nbeta=5 and nbetas=\[7.0\] were given.*leave it out"):
        degrade.ladder(net, x, nbetas=[7.0], first_nbeta=5.0, **given)
