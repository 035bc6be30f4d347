import time

import numpy as np
import pandas as pd
import pytest

from studies.behaviours import cells, curves, marks, rank_agreement, ranking, rungs, starts
from studies.claims import claims, lasting
from studies.statistics import chain_interval


@pytest.fixture(scope="module")
def ranks(table):
    return ranking(table)


def one(frame, **where):
    rows = frame[np.logical_and.reduce([frame[name] == value for name, value in where.items()])]
    assert len(rows) == 1
    return rows.iloc[0]


def test_a_curve_is_the_chain_interval_of_the_rows(table):
    where = (table["dial"] == "natural") & (table["behaviour"] == "retrieval") & (table["rung"] == 4)
    by_chain = table[where].groupby(["chain", "draw"])["value"].mean().groupby("chain")
    expected = chain_interval({chain: rows for chain, rows in by_chain})
    row = one(curves(table), dial="natural", behaviour="retrieval", rung=4)
    np.testing.assert_allclose(row[["mean", "se", "low", "high"]].astype(float), expected[:4])
    assert (row["verdict"], row["chains"]) == ("ok (heated only)", 4)


def test_retention_is_one_at_the_start_for_gains_and_losses(table):
    start = curves(table).query("rung == 0")
    measurable = start["behaviour"] != "canary x1"
    np.testing.assert_allclose(start.loc[measurable, "retention"], 1.0)
    assert start.loc[~measurable, "retention"].isna().all()
    markov = one(curves(table), dial="natural", behaviour="markov", rung=7)
    assert markov["mean"] > markov["start"] and 0 < markov["retention_low"] < markov["retention_high"] < 1


def test_binary_limits_stay_between_0_and_1(table):
    binary = curves(table).query("rung > 0 and measure == 'accuracy'")
    assert binary["low"].min() >= 0 and binary["high"].max() <= 1


def test_failed_rungs_are_left_out_and_suspect_ones_kept_with_their_verdict(table):
    natural = curves(table).query("dial == 'natural'")
    assert 8 not in set(natural["rung"])
    assert set(natural.loc[natural["rung"] == 1, "verdict"]) == {"suspect"}
    assert one(rungs(table), dial="natural", rung=8)["verdict"] == "failed"


def test_the_planted_scales_are_found(ranks, planted):
    """Of some 25 nominal 95 % intervals five or more miss with probability 0.007."""
    inside = ranks[(ranks["censored"] == "none") & (ranks["chains"] > 0)]
    truth = [getattr(planted[row.behaviour], row.dial) for row in inside.itertuples()]
    missed = (np.array(truth) < inside["low"]) | (np.array(truth) > inside["high"])
    assert len(inside) >= 20
    assert missed.sum() <= 4
    assert np.abs(np.log(inside["value"] / truth)).max() < 0.35


def test_scales_outside_the_ladder_are_bounds(ranks):
    left = one(ranks, dial="natural", behaviour="canary x4")
    right = one(ranks, dial="natural", behaviour="facts frequent")
    assert (left["censored"], left["low"], left["rank"], left["verdict"]) == ("left", 0.0, 1.0, "suspect")
    assert (right["censored"], right["high"]) == ("right", np.inf)
    tied = ranks[(ranks["dial"] == "natural") & (ranks["right"] == ranks["chains"]) & (ranks["chains"] > 0)]
    assert len(tied) > 1 and tied["rank"].min() == tied["rank"].max()


def test_a_behaviour_at_chance_is_said_and_not_ranked(ranks):
    row = one(ranks, dial="natural", behaviour="canary x1")
    assert np.isnan(row["value"]) and np.isnan(row["rank"])
    assert "not above chance" in row["reason"]


def test_every_scale_carries_the_worst_verdict_around_it(ranks):
    assert one(ranks, dial="natural", behaviour="canary x8")["verdict"] == "suspect"
    assert one(ranks, dial="natural", behaviour="retrieval")["verdict"] == "ok (heated only)"
    assert one(ranks, dial="isotropic", behaviour="retrieval")["verdict"] == "ok"


def test_guessing_error_counts_where_all_examples_agree(table):
    start = one(starts(table), dial="natural", behaviour="retrieval")
    assert start["start_se"] == pytest.approx(np.sqrt(1 / 8 * 7 / 8 / 40))


def test_prior_draws_stand_in_for_a_missing_chance_level(table):
    rows = table[table["behaviour"] == "retrieval"].assign(chance=np.nan)
    assert "no chance level" in ranking(rows)["reason"].iloc[0]
    prior = rows[rows["rung"] == 7].assign(rung=99, verdict="prior", value=0.2)
    both = pd.concat([rows, prior])
    assert set(starts(both)["chance"].round(12)) == {0.2}
    assert 99 not in set(curves(both)["rung"])


def test_labels_name_the_measure_only_where_behaviours_share_a_name(table):
    rows = table[table["behaviour"].isin(["markov", "markov2"])]
    doubled = pd.concat([rows, rows[rows["behaviour"] == "markov"].assign(measure="accuracy", higher=True)])
    assert set(ranking(doubled)["label"]) == {"markov (excess)", "markov (accuracy)", "markov2"}


def test_claims_keep_an_honest_width_at_both_ends(table):
    natural = claims(table).query("dial == 'natural' and rung > 0")
    assert set(natural["rung"]) == set(range(1, 8))
    ends = natural[natural["share"].isin([0.0, 1.0])]
    assert len(ends) and ((ends["high"] - ends["low"]) > 0.4).all()
    assert natural["verdict"].notna().all()


def test_a_claim_lasts_until_the_first_rung_where_it_fails(table):
    held = pd.DataFrame({"dial": "natural", "claim": "c", "rung": [0, 1, 2, 3], "target": [0, 0.1, 0.2, 0.4]})
    held = held.assign(rise=held["target"], share=[1.0, 1.0, 0.5, 1.0], high=1.0, verdict="ok")
    held = held.assign(x=held["rise"])
    assert one(lasting(held), dial="natural")["until"] == 0.1
    assert one(lasting(held.assign(share=1.0)), dial="natural")["last"]
    assert np.isnan(one(lasting(held.assign(share=0.0)), dial="natural")["until"])
    assert claims(table[table["measure"] != "holds"]).empty


def frame_of(**scales):
    rows = [
        {
            "dial": dial,
            "probe": "p",
            "measure": "m",
            "behaviour": str(place),
            "value": value,
            "chains": 4,
            "left": 0,
            "right": 0,
        }
        for dial, values in scales.items()
        for place, value in enumerate(values)
    ]
    return pd.DataFrame(rows)


def test_rank_agreement_is_kendalls_tau():
    assert rank_agreement(frame_of(a=[1, 2, 3], b=[10, 20, 30]), "a", "b") == (1.0, 3, 0)
    assert rank_agreement(frame_of(a=[1, 2, 3], b=[3, 2, 1]), "a", "b") == (-1.0, 3, 0)
    assert rank_agreement(frame_of(a=[1, 2, 3, 4], b=[1, 2, np.nan, 4]), "a", "b") == (1.0, 3, 1)


def test_censored_behaviours_tie():
    ranks = frame_of(a=[1.0, 2.0, 2.1], b=[1.0, 2.1, 2.0])
    ranks.loc[ranks["value"] >= 2, "right"] = 4
    assert rank_agreement(ranks, "a", "b").tau == pytest.approx(1.0)
    with pytest.raises(ValueError, match="no dial"):
        rank_agreement(ranks, "a", "c")


def test_cells_average_examples_draws_and_chains(table):
    got = cells(table, "patching", "recovery", ["site", "layer", "position"])
    rows = table[(table["probe"] == "patching") & (table["rung"] == 3) & (table["position"] == 11)]
    rows = rows[(rows["site"] == "resid_pre") & (rows["layer"] == 0)]
    row = one(got, rung=3, site="resid_pre", layer=0, position=11)
    assert row["value"] == pytest.approx(rows["value"].mean())
    assert set(got["rung"]) == set(range(8))
    with pytest.raises(ValueError, match="no rows"):
        cells(table, "patching", "nothing", ["site"])


def test_marks_are_read_from_the_table(table):
    assert marks(table)["exact gap"] == 0.14
    assert marks(table).is_monotonic_increasing


def test_two_million_rows_take_seconds(make_table):
    big = make_table(examples=170, dials=("natural", "isotropic", "no canaries"), patching=False)
    assert len(big) > 2e6
    began = time.perf_counter()
    curves(big), ranking(big)
    assert time.perf_counter() - began < 30  # takes 3 s alone; the bound leaves room for a busy machine
