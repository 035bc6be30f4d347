"""Paired differences and shares of the error, on tables whose truth is planted."""

import numpy as np
import pandas as pd
import pytest

from studies.behaviours import curves
from studies.generalisation_draws import pairs, sentence, splits
from studies.variance import SOURCES


@pytest.fixture(scope="module")
def table(make_table):
    return make_table(patching=False)


def test_the_paired_difference_is_that_of_the_curves(table):
    found = pairs(table).set_index("rung")
    kept = curves(table).query("dial == 'natural' and rung > 0").set_index(["behaviour", "rung"])["retention"]
    assert list(found["name"].unique()) == ["addition"] and set(found.index) == {1, 2, 3, 4, 5, 6, 7}  # 8 has failed
    np.testing.assert_allclose(found["mean"], kept["addition seen"] - kept["addition held out"], atol=1e-12)
    assert (found["chains"] == 4).all() and not (found["q"] < found["p"] - 1e-12).any()
    assert found["mean"].max() > 0.03  # E½ 0.42 against 0.35


def test_what_makes_every_draw_worse_cancels(table):
    """The same amount off both, draw by draw: the mean and the error of the difference stay."""
    rng = np.random.default_rng(0)
    draws = table[["rung", "chain", "draw"]].drop_duplicates()
    shifted = table.merge(draws.assign(off=0.2 * rng.random(len(draws))), on=["rung", "chain", "draw"], how="left")
    mine = shifted["behaviour"].isin(["addition seen", "addition held out"]) & (shifted["rung"] > 0)
    gap = shifted["behaviour"].map(table[table["rung"] == 0].groupby("behaviour")["value"].mean()) - shifted["chance"]
    moved = shifted.assign(value=shifted["value"] - (shifted["off"] * gap).where(mine, 0.0))
    before, after = pairs(table), pairs(moved)
    np.testing.assert_allclose(after[["mean", "se"]], before[["mean", "se"]], atol=1e-9)


def test_sentences_name_the_largest_difference_and_where_it_is_called(table):
    found = pairs(table)
    most = found.loc[found["mean"].abs().idxmax()]
    said = sentence(found)
    assert f"{most['mean']:.2g} [" in said and "addition held out" in said
    assert ("called at no rung" in said) == (not (found["q"] <= 0.05).any())
    assert sentence(found.iloc[:0]).startswith("Rule against memory was not compared")
    assert pairs(table[table["behaviour"] != "addition seen"]).empty


def test_shares_of_the_error_sum_to_one_at_the_rung_nearest_to_the_gap(table):
    found = splits(table, 0.13)
    assert (found["rung"] == 3).all() and len(found) > 5
    np.testing.assert_allclose(found[list(SOURCES)].sum(axis=1), 1)
    assert (found["se"] > 0).all()


def test_questions_that_differ_are_what_to_buy_and_lopsided_rows_are_left_out():
    rng = np.random.default_rng(0)
    chain, draw, example = (axis.ravel() for axis in np.indices((4, 3, 20)))
    value = rng.standard_normal(20)[example] + 0.01 * rng.standard_normal(240)
    rows = pd.DataFrame({"chain": chain, "draw": draw, "example": example, "value": value, "rung": 1, "rise": 0.1})
    rows = rows.assign(dial="natural", probe="p", measure="m", behaviour="b", verdict="ok")
    assert splits(rows, 0.1)["more"].tolist() == ["questions"]
    assert splits(rows.iloc[1:], 0.1).empty and splits(rows[rows["draw"] == 0], 0.1).empty
