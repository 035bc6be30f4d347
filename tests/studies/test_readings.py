"""Readings probe by probe: means against a naive twin, keys in words, long measures, and a section for any probe."""

import re

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from probes import Claim, Measure, sweep
from probes.heads import Heads
from studies import figures, survival_report
from studies.behaviours import curves, ranking
from studies.findings import finding
from studies.readings import CELLS, LEADING, LIKENESS, described, readings
from studies.report import readings_table
from studies.statistics import chain_interval
from tests.probes.toys import Ladder, bridge

SIZES = 3 * CELLS


class Strange:
    """Reads what nobody has read before.

    Its keys are its own: no report knows them.
    """

    name = "strange"
    measures = {"wave": Measure(None, True, False, "quanta"), "seen": Measure(0.5, True, True, "share")}

    def __call__(self, model):
        size = float(next(iter(list(model.parameters())[::-1])).detach().abs().mean())
        wave = [
            {
                "measure": "wave",
                "value": size + 10 * (a == "b") + place,
                "flavour": a,
                "example": place,
                "extra": place / 7,
            }
            for a in "ab"
            for place in range(3)
        ]
        seen = [{"measure": "seen", "value": float(cell % 3 == 0), "cell_number": cell} for cell in range(SIZES)]
        return pd.DataFrame(wave + seen)


def swept(*probes, rungs=2):
    return sweep(Ladder(bridge(), rungs=rungs), list(probes), progress=False).assign(dial="natural")


@pytest.fixture(scope="module")
def strange():
    return swept(Strange(), Claim(Strange(), "all is strange", lambda table: True))


def test_a_reading_is_the_mean_over_examples_and_draws_with_its_interval_over_chains(strange):
    found = readings(strange).set_index(["measure", "cell", "rung"])
    rows = strange[(strange["measure"] == "wave") & (strange["flavour"] == "b")]
    for rung in (1, 2):
        mine = rows[rows["rung"] == rung]
        naive = chain_interval([part.groupby("draw")["value"].mean() for _, part in mine.groupby("chain")])
        row = found.loc["wave", "flavour b", rung]
        assert tuple(row[["mean", "se", "low", "high"]]) == pytest.approx(tuple(naive[:4]))
        assert row["chains"] == 2 and row["verdict"] == "ok" and row["target"] == pytest.approx(0.1 * rung)
    assert found.loc["wave", "flavour b", 0]["mean"] == rows.loc[rows["rung"] == 0, "value"].mean()
    assert np.isnan(found.loc["wave", "flavour b", 0]["low"])


def test_examples_and_real_numbers_make_no_cells_and_claims_are_no_readings(strange):
    found = readings(strange)
    assert set(found["probe"]) == {"strange"}
    assert list(found.loc[found["measure"] == "wave", "cell"].unique()) == ["flavour a", "flavour b"]


def test_failed_rungs_are_left_out_and_binary_measures_stay_within_0_and_1(strange):
    failed = strange.assign(verdict=strange["verdict"].mask(strange["rung"] == 2, "failed"))
    assert set(readings(failed)["rung"]) == {0, 1}
    seen = readings(strange).query("measure == 'seen' and cell != @LIKENESS")
    limits = seen.loc[seen["rung"] > 0, ["low", "high"]].to_numpy()
    assert limits.size and ((limits >= 0) & (limits <= 1)).all()


def long_table(cells=40, draws=6, seed=0):
    """A map of many cells whose draws are planted."""
    rng = np.random.default_rng(seed)
    value = rng.standard_normal((1 + draws, cells))
    rung, chain = np.r_[0, np.repeat(1, draws)], np.r_[-1, np.arange(draws) % 2]
    place = {"rung": rung, "chain": chain, "draw": np.arange(-1, draws), "target": 0.2 * rung, "rise": 0.2 * rung}
    frame = pd.DataFrame(place).assign(heldout_rise=0.1, verdict=np.where(rung, "ok", "trained"), dial="natural")
    frame = frame.loc[frame.index.repeat(cells)].assign(probe="map", measure="effect", binary=False, higher=True)
    return frame.assign(value=value.ravel(), site=np.tile(np.arange(cells), draws + 1)), value


def test_of_a_long_measure_the_cells_furthest_from_the_median_are_kept():
    table, value = long_table()
    found = readings(table)
    far = np.argsort(-abs(value[0] - np.median(value[0])), kind="stable")[:LEADING]
    assert list(found["cell"].unique()) == [*(f"site {site}" for site in far), LIKENESS]
    assert set(found["cells"]) == {40}


def test_the_likeness_is_spearmans_correlation_with_the_map_at_home():
    table, value = long_table()
    found = readings(table).query("cell == @LIKENESS").set_index("rung")["mean"]
    each = [stats.spearmanr(value[0], draw).statistic for draw in value[1:]]
    assert found[0] == pytest.approx(1) and found[1] == pytest.approx(np.mean(each))


def test_heads_are_named_by_layer_and_head():
    table = swept(Heads.build(SUBJECT(), n=3), rungs=1)
    found = readings(table)
    assert list(found.loc[found["measure"] == "copying", "cell"].unique()) == ["L0H0", "L0H1", "L1H0", "L1H1"]
    assert list(found.loc[found["measure"] == "in-context score", "cell"].unique()) == ["in-context"]


def SUBJECT():
    from tests.probes.toys import subject

    return subject(bridge())


def test_every_probe_gets_a_section_without_code_of_its_own(strange):
    known = described([Strange(), Claim(Strange(), "no", bool)])
    assert known == {"strange": {"line": "Reads what nobody has read before.",
                                 "units": {"wave": "quanta", "seen": "share"}}}  # fmt: skip
    (section,) = survival_report._sections(strange, known)
    assert section.title == "strange" and section.text == known["strange"]["line"]
    assert section.table.head == ["measure", "of", "unit", "w*", "0.1, ok", "0.2, ok"]
    assert {row[2].text for row in section.table.rows} == {"quanta", "share", ""}
    assert all(len(row) == 6 for row in section.table.rows)
    assert section.plate.png.startswith(b"\x89PNG")
    (bare,) = survival_report._sections(strange, {})  # a run that wrote nothing down of its probes
    assert bare.text == ""


def test_cells_show_their_verdict_and_a_dash_where_nothing_was_read(strange):
    doubted = strange.assign(verdict=strange["verdict"].mask(strange["rung"] == 2, "suspect"))
    rows = readings(doubted)
    rows = rows[~((rows["measure"] == "wave") & (rows["cell"] == "flavour a") & (rows["rung"] == 1))]
    table = readings_table(rows, {})
    first = table.rows[0]
    assert first[4].text == "–" and first[5].kind == "suspect" and first[5].text.endswith("†")
    assert re.fullmatch(r"\S+ \[\S+,\s\S+\]", table.rows[1][4].text)


def test_the_figure_has_a_panel_a_measure_and_marks_suspect_rungs(strange):
    rows = readings(strange)
    drawn = figures.readings(rows, {"wave": "quanta"})
    assert [panel.get_title(loc="left") for panel in drawn.axes] == ["wave (quanta)", "seen"]
    assert LIKENESS not in str([text.get_text() for text in drawn.axes[1].get_legend().get_texts()])
    with pytest.raises(ValueError, match="nothing to draw"):
        figures.readings(rows[rows["rung"] == 0])


def test_a_sweep_without_behaviours_has_no_curves_and_no_ranking(strange, ladder_table):
    assert curves(strange).empty and ranking(strange).empty
    assert finding(ranking(strange), ladder_table)[1].startswith("Nothing can be ranked")
