"""Calls on tables whose truth is planted, and on ladders of the smallest model: nulls stay null, effects are found."""

from functools import cache

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from studies.contributions import worth
from studies.generalisation_calls import Gap, by_chain, calls
from studies.generalisation_findings import relation, undecided, useful_yet_memorising
from studies.retention import crossing, retained
from tests.studies import twins

REPEATS = 40


def gap_of_copy(table):
    """The one E½ that all skills of a copy share, as a natural gap with its error over chains."""
    logs = [
        np.mean([np.log(crossing(one["rise"], one["kept"])[0]) for _, one in rows.groupby("behaviour")])
        for _, rows in by_chain(table).groupby("chain")
    ]
    value = float(np.exp(np.mean(logs)))
    return Gap("copy", value, value * float(stats.sem(logs)), len(logs) - 1.0)


@cache
def gap_of_twin(seed):
    return gap_of_copy(twins.swept(seed))


@pytest.mark.slow
def test_two_copies_of_one_model_differ_no_more_often_than_the_level_says():
    """All calls on a copy whose gap is its twin's E½ are false: at most 5 of 40 runs have one (P = 0.014 beyond)."""
    false = 0
    for seed in range(REPEATS):
        found = calls(twins.swept(1000 + seed), gap_of_twin(seed))
        assert len(found) == twins.SKILLS and found["p"].notna().all()
        false += found["call"].isin(["generalising", "memorising"]).any()
    assert false <= stats.binom.ppf(0.98, REPEATS, 0.05)


@pytest.mark.slow
def test_a_behaviour_whose_weights_are_scaled_down_by_hand_is_called_memorising():
    """At least 12 of 20: were it found in 80 %, fewer would have a chance of 0.01."""
    found = 0
    for seed in range(REPEATS // 2):
        own = calls(twins.swept(1000 + seed, scaled=0.4), gap_of_twin(seed)).set_index("behaviour")
        found += own.loc["skill 0", "call"] == "memorising"
    assert found >= stats.binom.ppf(0.03, REPEATS // 2, 0.8)


def test_the_copy_that_is_scaled_breaks_before_its_twins():
    ranks = calls(twins.swept(0, scaled=0.4), Gap("given", 1.0)).set_index("behaviour")
    assert ranks["value"].idxmin() == "skill 0"


@pytest.fixture(scope="module")
def found(make_table):
    return calls(make_table(patching=False), Gap("exact gap", 0.12, 0.002))


def test_planted_scales_are_called_on_their_side_of_the_gap(found, planted):
    by_label = found.set_index("behaviour")
    for name, row in by_label.iterrows():
        if row["call"] in ("generalising", "memorising") and abs(np.log(planted[name].natural / 0.12)) > 0.2:
            assert (row["call"] == "generalising") == (planted[name].natural > 0.12), name
    assert by_label.loc["canary x1", "call"] == "absent"
    assert {"canary x4", "canary x8", "tail rare"} <= set(by_label.index[by_label["call"] == "memorising"])
    assert {"retrieval", "induction", "addition seen"} <= set(by_label.index[by_label["call"] == "generalising"])


def test_the_call_at_the_gap_is_the_side_of_each_chains_scale():
    rng = np.random.default_rng(0)
    for _ in range(200):
        rises = np.sort(rng.uniform(0.05, 2, 6))
        kept, gap = rng.random(6), rng.uniform(rises[0], rises[-1])
        scale, side = crossing(rises, kept)
        if side == 0:
            assert (retained(rises, kept, gap) > 0.5) == (scale > gap)


def test_an_uncertain_gap_widens_the_interval_and_can_undo_a_call(make_table):
    table = make_table(patching=False)
    sure, unsure = (calls(table, Gap("gap", 0.12, se)).set_index("behaviour") for se in (0.0, 0.04))
    assert (unsure["at_gap_se"].dropna() >= sure["at_gap_se"].dropna() - 1e-12).all()
    assert sure.loc["canary x8", "call"] == "memorising" and unsure.loc["canary x8", "call"] == "undecided"


def test_q_values_count_every_behaviour_and_absent_ones_none(found):
    tested = found["p"].notna()
    assert tested.sum() == (found["call"] != "absent").sum()
    np.testing.assert_allclose(found.loc[tested, "q"], stats.false_discovery_control(found.loc[tested, "p"]))


@pytest.mark.parametrize(("gap", "never"), [(0.004, "memorising"), (9.0, "generalising")])
def test_a_gap_beyond_the_ladder_can_show_one_side_only(make_table, gap, never):
    found = calls(make_table(patching=False), Gap("gap", gap))
    assert not (found["call"] == never).any()
    assert found.loc[found["call"] != "absent", "why"].str.contains("the gap lies").all()


def test_second_opinions_are_for_right_and_wrong_and_agree_with_the_first(found):
    assert found.loc[~found["binary"], "second"].isna().all()
    inside = found[found["binary"] & (found["censored"] == "none") & (found["chains"] > 0)]
    assert len(inside) > 4
    assert (np.abs(np.log(inside["second"] / inside["value"])) < 0.1).all()


def test_frequency_goes_with_the_scale_in_every_chain(make_table):
    table = make_table(patching=False)
    copies = table["behaviour"].str.extract(r"canary x(\d+)")[0].astype(float)
    table = table.assign(frequency=copies)
    own = calls(table, Gap("gap", 0.1))
    tau = relation(own, table)
    assert tau["behaviours"] == 5 and tau["chains"] == 4  # one is not above chance
    assert 0.5 < tau["low"] <= tau["tau"] <= 1
    backwards = relation(own.assign(test=-own["frequency"]), table, "test")
    assert backwards["tau"] == pytest.approx(-tau["tau"]) and backwards["behaviours"] == 5


def test_what_improves_test_loss_and_is_called_memorising_is_named(found):
    rows = [("test", "tail rare", 0.05, 0.001, 1e-9), ("test", "retrieval", 0.2, 0.01, 1e-9),
            ("test", "canary x4", 0.001, 0.01, 0.9), ("training", "canary x4", 0.02, 0.001, 1e-9)]  # fmt: skip
    worths = pd.DataFrame(rows, columns=["data", "behaviour", "value", "se", "p"]).assign(tokens=0.01)
    out = worth(found, worths).set_index("behaviour")
    assert list(useful_yet_memorising(out.reset_index())["behaviour"]) == ["tail rare"]
    assert out.loc["canary x8", "test"] == 0 and not out.loc["canary x8", "improves"]
    assert out.loc["canary x4", "training"] == 0.02


def test_what_was_not_decided_says_why(found):
    said = " ".join(undecided(found.assign(improves=pd.NA)))
    assert "canary x1: not above chance" in said
    assert "facts frequent: undecided, r at the gap 1.00" in said
