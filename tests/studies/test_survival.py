"""The main job end to end, small."""

import json

import pandas as pd
import pytest

import degrade
from studies import stages, survival
from studies.subject import parse

TINY = survival.Size((0.8,), 2, 2, 2, 64, 64, 120, 40)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("survival") / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(survival, "QUICK", TINY)
        table = survival.run(quick=True, workers=2, out=folder, progress=False)
    return folder, table


def test_the_directory_is_complete(finished):
    folder, _ = finished
    for name in (
        "manifest.json",
        "ladder.parquet",
        "traces.parquet",
        "losses.parquet",
        "probes.parquet",
        "report.html",
    ):
        assert (folder / name).stat().st_size > 0
    assert len({path.stem[:-8] for path in (folder / "draws").glob("rung-*-draw-*.safetensors")}) == 2  # chains
    drawn = {path.stem for path in (folder / "figures").glob("*.png")}
    probes = {f"probe-{name}" for name in survival.PROBES}
    usable = (pd.read_parquet(folder / "ladder.parquet").verdict.iloc[1:] != "failed").any()
    assert drawn == {"survival", "ranking", "patching", "verdicts", "traces"} | (probes if usable else set())
    assert "climbing" in stages.read(folder) and "figures and report" in stages.read(folder)
    assert [path.name for path in folder.parent.iterdir()] == ["run"]


def test_the_table_holds_every_behaviour_of_every_dial_with_its_verdict(finished):
    folder, table = finished
    stored = pd.read_parquet(folder / "probes.parquet")
    assert len(stored) == len(table)
    swept = table[table.probe != "mark"]
    assert swept.verdict.notna().all()
    behaviours = {dial: set(rows.behaviour.dropna()) for dial, rows in swept.groupby("dial")}
    assert behaviours["natural"] == behaviours["isotropic"]
    assert {"canary x64", "induction", "retrieval", "addition held out", "facts frequent", "markov2"} <= behaviours[
        "natural"
    ]
    assert {"induction", "kinds", "patching", "recall"} <= set(swept.probe)


def test_marks_are_rises_above_the_models_own_loss(finished):
    marks = finished[1].query("probe == 'mark'").set_index("measure").value
    assert 0 < marks["larger model"] < marks["exact gap"] < 0.3
    assert marks["exact gap"] < marks["n-gram 3"] < marks["n-gram 2"] < marks["n-gram 1"] < marks["untrained"]


def test_the_report_shows_verdicts_and_can_be_drawn_again(finished):
    folder, table = finished
    page = (folder / "report.html").read_text()
    ladder = pd.read_parquet(folder / "ladder.parquet")
    assert all(verdict.split(" ")[0] in page for verdict in ladder.verdict)
    assert len(survival.finding(table)) == 3
    first = (folder / "figures" / "ranking.png").read_bytes()
    survival.report(folder)
    assert (folder / "figures" / "ranking.png").read_bytes() == first


def test_stored_draws_load_into_the_model(finished):
    folder, table = finished
    from studies.organisms.mixture import mixture

    model, _ = mixture.load()
    ladder = degrade.load(folder, model)
    assert len(list(ladder.draws())) == 2 * 2
    assert json.loads((folder / "manifest.json").read_text())["asked"]["model"] == "mixture"


@pytest.mark.slow
def test_no_figure_is_needed_to_run_and_a_probe_can_be_chosen(monkeypatch):
    monkeypatch.setattr(survival, "QUICK", TINY)
    table = survival.run(quick=True, probes=["induction:n=8"], workers=2, progress=False)
    assert set(table.probe) == {"induction", "mark", *(name for name in table.probe if name.startswith("claim: "))}


@pytest.mark.slow
def test_two_runs_with_one_seed_are_bit_identical(monkeypatch, tmp_path):
    monkeypatch.setattr(survival, "QUICK", TINY)
    for name in ("a", "b"):
        survival.run(quick=True, workers=2, out=tmp_path / name, progress=False)
    for table in ("ladder", "traces", "losses", "probes"):
        one, two = (pd.read_parquet(tmp_path / name / f"{table}.parquet") for name in ("a", "b"))
        pd.testing.assert_frame_equal(one, two, check_exact=True)
    for path in (tmp_path / "a" / "draws").iterdir():
        assert path.read_bytes() == (tmp_path / "b" / "draws" / path.name).read_bytes()


def test_probe_settings_are_parsed():
    assert parse("recall") == ("recall", {})
    assert parse("recall:n=4,guess=0.5") == ("recall", {"n": 4, "guess": 0.5})
    with pytest.raises(ValueError, match="expected NAME:key=value"):
        parse("recall:n")
