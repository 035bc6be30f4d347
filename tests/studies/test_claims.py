import numpy as np
import pandas as pd
import pytest

from studies.axes import AXES, known, placed
from studies.claims import claims, finding, lasting
from studies.claims_report import lasting_table
from studies.figures import claims as drawn
from studies.figures import png


def sweep_of(shares, chains=4, draws=8, dial="natural", claim="it holds", seed=0):
    """Rows of one claim that holds on a share of the draws of each rung, with all axes; w* first."""
    rng = np.random.default_rng(seed)
    rows = []
    for rung, share in enumerate(shares):
        for chain in range(chains) if rung else [-1]:
            for draw in range(draws) if rung else [-1]:
                rise = 0.1 * rung
                verdict = "ok" if rung else "trained"
                place = {"rung": rung, "target": rise, "rise": rise, "heldout_rise": rise, "verdict": verdict,
                         "chain": chain, "draw": draw, "dial": dial}  # fmt: skip
                axes = {"heldout_loss": 1.7 + rise, "accuracy": 0.8 - rise, "llc": 100.0 / rung if rung else np.nan}
                rows.append(place | axes | {"probe": f"claim: {claim}", "measure": "holds", "value": 0.0})
        here = [row for row in rows if row["rung"] == rung]
        for row in rng.permutation(here)[: round(share * len(here))]:
            row["value"] = 1.0
    return pd.DataFrame(rows).assign(behaviour=None)


def test_the_largest_rise_is_the_last_rung_before_the_share_falls_and_not_a_later_return():
    held = claims(sweep_of([1, 1, 0.97, 0.4, 1.0]))
    row = lasting(held).iloc[0]
    assert row["until"] == pytest.approx(0.2) and not row["last"]
    assert row["refuted"] and row["at_most"] == pytest.approx(0.2)


def test_between_holding_and_refuted_the_draws_do_not_decide():
    row = lasting(claims(sweep_of([1, 1, 0.9, 0.0]))).iloc[0]
    assert row["until"] == pytest.approx(0.1) and row["at_most"] == pytest.approx(0.2) and row["refuted"]


@pytest.mark.parametrize(("shares", "until", "last"), [([1, 1, 1], 0.2, True), ([1, 0, 0], 0.0, False)])
def test_claims_that_last_throughout_or_not_at_all(shares, until, last):
    row = lasting(claims(sweep_of(shares))).iloc[0]
    assert row["until"] == pytest.approx(until) and row["last"] == last


def test_a_claim_that_fails_at_the_trained_weights_lasts_nowhere():
    row = lasting(claims(sweep_of([0, 1, 1]))).iloc[0]
    assert np.isnan(row["until"]) and np.isnan(row["at_most"])


@pytest.mark.parametrize(("axis", "place"), [("rise", 0.2), ("heldout", 1.9), ("accuracy", 0.6), ("llc", 50.0)])
def test_every_axis_places_the_same_rungs(axis, place):
    table = sweep_of([1, 1, 1, 0.0]).assign(axis=axis)
    row = lasting(claims(table, axis)).iloc[0]
    assert row["x"] == pytest.approx(place)
    assert any(f"{place:g}" in text for text in finding(table))
    assert f"{place:g}" in lasting_table(claims(table, axis), known(axis)).rows[0][1].text
    assert png(drawn(claims(table, axis), known(axis)))[:4] == b"\x89PNG"


def test_an_unknown_axis_lists_the_known_ones():
    with pytest.raises(ValueError, match="unknown axis 'time'.*rise, heldout, accuracy, llc"):
        known("time")


def test_draws_are_placed_by_their_own_text_and_their_rungs_complexity():
    table = sweep_of([1, 1, 1]).drop(columns=["heldout_loss", "accuracy", "llc"])
    text = table.assign(probe="held-out text", measure="loss", value=1.0 + table["rise"] + 0.01 * table["chain"])
    hits = text.assign(measure="accuracy", value=0.9 - table["rise"])
    rungs = pd.DataFrame({"rung": [0, 1, 2], "llc": [np.nan, 300.0, 200.0]})
    out = placed(pd.concat([table, text, hits], ignore_index=True), rungs)
    own = out[out["measure"] == "holds"]
    np.testing.assert_allclose(own["heldout_loss"], 1.0 + own["rise"] + 0.01 * own["chain"])
    np.testing.assert_allclose(own["accuracy"], 0.9 - own["rise"])
    assert own.groupby("rung")["llc"].first().to_dict() == {1: 300.0, 2: 200.0} or own["llc"].isna().sum() == 1
    assert len(out) == 3 * len(table)


def test_axes_know_their_columns():
    assert {axis.column for axis in AXES.values()} <= set(sweep_of([1, 1]).columns)
