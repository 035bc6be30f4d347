import re

import numpy as np
import pandas as pd
import pytest

from studies.behaviours import curves, marks, ranking, rungs
from studies.claims import claims
from studies.figures import png, survival
from studies.findings import controls, finding, left_out, scale
from studies.report import Plate, Report, ranked_table, render, verdict_table, write


@pytest.fixture(scope="module")
def report(table, ladder_table):
    ranks, where = ranking(table), rungs(table)
    plate = Plate("Survival curves", png(survival(curves(table), where), dpi=50), "Retention against the rise.")
    return Report(
        title="Survival of <b>mixture</b>",
        finding=finding(ranks, ladder_table, marks(table)),
        settings={"model": "a & b", "note": "<script>alert(1)</script>"},
        ladder=ladder_table,
        ranks=ranks,
        rungs=where,
        plates=[plate],
        claims=claims(table),
        controls=controls(ranks),
        left_out=left_out(ranks, where, ladder_table),
        marks=marks(table),
        versions={"torch": "2.13"},
    )


def test_the_file_stands_alone(report, tmp_path):
    path = write(tmp_path, report)
    text = path.read_text(encoding="utf-8")
    assert [file.name for file in tmp_path.iterdir()] == ["report.html"]
    assert not re.search(r'(src|href)="(?!data:)', text)
    assert "http" not in text
    assert text.count("data:image/png;base64,") == 1


def test_text_is_escaped(report):
    text = render(report)
    assert "<script>" not in text and "&lt;script&gt;" in text
    assert "Survival of &lt;b&gt;mixture&lt;/b&gt;" in text


def test_every_section_is_there(report):
    heads = re.findall(r"<h2>(.*?)</h2>", render(report))
    assert len(heads) == 8
    bare = Report("t", ["f"], {}, report.ladder, report.ranks, report.rungs)
    assert re.findall(r"<h2>(.*?)</h2>", render(bare)) == [heads[i] for i in (0, 1, 2, 5, 6)]


def test_every_number_has_its_verdict_in_the_same_row(report):
    for row in verdict_table(report.ladder).rows:
        assert row[-2].text in ("trained", "ok (heated only)", "suspect", "failed")
    head, rows = ranked_table(report.ranks)
    for column, name in enumerate(head):
        if name.startswith("E½"):
            assert head[column + 1].startswith("verdict")
            assert all(row[column + 1].text for row in rows)


def test_the_finding_names_rungs_order_and_gap(report, table):
    rest, order, gap = report.finding
    assert "7 of 8 rungs" in rest and "1 suspect" in rest and "1 failed" in rest
    assert order.startswith("Half of canary x4 is gone first") and "facts frequent" in order and "suspect" in order
    assert "exact gap, 0.14" in gap
    below = ranking(table).query("dial == 'natural' and high < 0.14")
    assert f"{len(below)} of 16 behaviours are more than half gone" in gap


def test_the_finding_is_honest_without_behaviours_or_rungs(report, ladder_table):
    nothing = report.ranks.assign(chains=0, rank=np.nan, value=np.nan)
    failed = ladder_table.assign(verdict=["trained"] + ["failed"] * 8)
    rest, order, gap = finding(nothing, failed)
    assert rest.startswith("No rung can be used")
    assert order.startswith("Nothing can be ranked")
    assert "cannot be said" in gap


def test_the_controls_compare_the_orders(report):
    (text,) = report.controls
    assert text.startswith("isotropic: Half of addition held out is gone first")
    assert "Kendall" in text and re.search(r"canary x64.* later", text)


def test_what_is_left_out_is_said_with_its_reason(report):
    text = "\n".join(report.left_out)
    assert "rung 8 (target 1.7 nats per token): failed, left out everywhere; R-hat 1.31" in text
    assert "rung 1 (target 0.04 nats per token): suspect, kept and marked" in text
    assert re.search(r"canary x1 \(natural\): no E½, not above chance", text)
    assert "facts frequent (natural): 4 of 4 chains above one half" in text


def test_a_rung_without_a_single_draw_is_said_too(report, table, ladder_table):
    seen = rungs(table).query("rung != 8 or dial != 'natural'")
    assert any("rung 8" in text and "R-hat" in text for text in left_out(ranking(table), seen, ladder_table))


def test_a_scale_reads_as_value_bound_or_dash():
    row = {"value": 0.2, "low": 0.1, "high": 0.4, "censored": "none", "chains": 4, "left": 0, "right": 0}
    assert scale(row).replace("\u00a0", " ") == "0.2 [0.1, 0.4]"
    assert scale(row | {"censored": "right", "right": 1, "high": np.inf}).startswith("≥ 0.2 [0.1")
    assert scale(row | {"censored": "right", "right": 4, "high": np.inf}) == "> 0.2"
    assert scale(row | {"censored": "left", "left": 4, "low": 0.0}) == "< 0.2"
    assert scale(row | {"chains": 0}) == "–"


def test_errors_set_the_decimals():
    ladder = pd.DataFrame({"rung": [1], "rise": [0.12345], "rise_se": [0.0021], "verdict": ["ok"], "reason": [""]})
    assert [cell.text for cell in verdict_table(ladder).rows[0]][1] == "0.1235 ±\u00a00.0021"
