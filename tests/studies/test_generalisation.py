"""The spectrum and the claims end to end, small, the second on the stored ladder of the first."""

import json

import pandas as pd
import pytest

from studies import claims, generalisation
from studies.climbing import Size

TINY = Size((0.5,), 2, 1, 1, 64, 64, 40, 10)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("generalisation") / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(generalisation, "QUICK", TINY)
        patch.setattr(generalisation, "QUICK_SEQUENCES", 256)
        table = generalisation.run(quick=True, probes=["recall:n=8"], workers=1, out=folder, progress=False)
    return folder, table


def test_the_run_holds_the_gap_the_contributions_and_a_report(finished):
    folder, table = finished
    gap = generalisation.natural_gap(table)
    assert gap.name == "exact gap" and 0.03 < gap.value < 0.12 and 0 < gap.se < 0.02
    worths = table[table["probe"] == "contribution"]
    assert set(worths["measure"]) == {"test", "training"}
    assert (folder / "report.html").stat().st_size > 0
    assert {path.stem for path in (folder / "figures").glob("*.png")} == {"spectrum", "survival", "verdicts", "traces"}
    assert json.loads((folder / "manifest.json").read_text())["study"] == "generalisation"


def test_the_axis_is_the_held_out_rise_unless_the_other_is_asked_for(finished):
    rows = finished[1]
    swept = rows[rows["rung"] > 0]
    assert (swept["rise"] == swept["heldout_rise"]).all()


def test_every_behaviour_has_a_call_and_the_finding_six_sentences(finished):
    found = generalisation.spectrum(finished[1])
    assert set(found["call"]) <= {"generalising", "memorising", "undecided", "absent"}
    assert {"canary x64", "facts rare", "retrieval", "addition held out"} <= set(found["label"])
    assert len(generalisation.finding(finished[1])) == 6
    by_label = found.set_index("label")
    assert by_label.loc["canary x64", "frequency"] == 64 and by_label.loc["canary x64", "test"] == 0
    assert by_label.loc["facts frequent", "test"] > 0.1 and by_label.loc["facts frequent", "improves"]


def test_the_report_can_be_drawn_again(finished):
    first = (finished[0] / "figures" / "spectrum.png").read_bytes()
    generalisation.report(finished[0])
    assert (finished[0] / "figures" / "spectrum.png").read_bytes() == first


def test_claims_are_asked_of_the_stored_ladder_on_another_axis(finished, tmp_path):
    table = claims.run(ladder=finished[0], probes=["recall:n=8"], axis="accuracy", workers=1, out=tmp_path / "run",
                       progress=False)  # fmt: skip
    own = table[table["measure"] == "holds"]
    assert set(own["rung"]) == {0, 1}
    assert own["accuracy"].between(0, 1).all() and own.loc[own["rung"] == 1, "llc"].notna().all()
    assert "an accuracy of" in " ".join(claims.finding(table))
    assert {path.stem for path in (tmp_path / "run" / "figures").glob("*.png")} == {"claims", "verdicts", "traces"}
    pd.testing.assert_frame_equal(claims.claims(table), claims.claims(pd.read_parquet(tmp_path / "run/probes.parquet")))


def test_gaps_by_name_or_number_and_nothing_else():
    from studies.subject import open_subject

    subject = open_subject("mixture")
    assert generalisation.open_gap(subject, 0.2) == ("given gap", 0.2, 0.0, float("inf"))
    assert generalisation.open_gap(subject, "larger").name == "larger model"
    with pytest.raises(ValueError, match="unknown gap 'huge'; expected exact, larger or a number"):
        generalisation.open_gap(subject, "huge")
    with pytest.raises(ValueError, match="expected a number above 0"):
        generalisation.open_gap(subject, -1.0)
    with pytest.raises(ValueError, match="unknown axis 'llc'"):
        generalisation.run(axis="llc")
