"""`degrade run survival` with every probe that fits, on every organism that ships: no probe is lost on the way."""

import inspect
import json
import re
import warnings

import pandas as pd
import pytest

from degrade import plugins
from studies import stages, survival
from studies.subject import build_probes, open_subject

SMALL = survival.Size((0.4,), 2, 1, 1, 32, 32, 40, 10)
EVERYWHERE = {"attribution", "circuit-loss", "faithfulness", "logit-lens", "ngrams", "path-patching", "patching"}
EVERYWHERE |= {"replacement"}
REPEATS = {"ablation", "heads", "induction", "kinds"}
FEW = {"linear-probe": 64}  # half of them are fitted to
FITS = {  # by what each corpus offers, see `degrade list probes`; a reading needs a hook to be named
    "mixture": EVERYWHERE | REPEATS | {"linear-probe", "memorisation", "recall"},
    "induction": EVERYWHERE | REPEATS,
    "retrieval": EVERYWHERE | {"recall", "request-patching"},
    "names": EVERYWHERE | {"ioi", "recall"},
    "modular": {"logit-lens", "modular-addition", "ngrams", "recall", "replacement"},
    "stdlib": EVERYWHERE - {"circuit-loss"} | REPEATS - {"kinds"} | {"code", "recall"},  # its text has no known law
}


def fitting(organism):
    """Every installed probe that fits, asked for by name with few examples; and the names of the probes built."""
    subject, asked, names = open_subject(organism), [], []
    for name, point in plugins.installed("probes").items():
        counted = "n" in inspect.signature(point.load().build).parameters
        text = f"{name}:n={FEW.get(name, 6)}" if counted else name
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                built = build_probes(subject, [text], {})
            except ValueError:
                continue
        asked.append(text)
        names.append(built[0].name)
    return asked, names


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*is run without a claim")
@pytest.mark.parametrize("organism", FITS)
def test_every_probe_that_fits_has_its_section(organism, tmp_path, monkeypatch):
    monkeypatch.setattr(survival, "QUICK", SMALL)
    asked, names = fitting(organism)
    assert FITS[organism] <= set(names)
    folder = tmp_path / "run"
    table = survival.run(organism, probes=asked, rises=SMALL.rises, quick=True, out=folder, workers=1, progress=False)
    assert set(names) <= set(table["probe"])
    page = (tmp_path / "run" / "report.html").read_text()
    assert re.findall(r"<h3>(.*?)</h3>", page) == names
    known = json.loads((tmp_path / "run" / "manifest.json").read_text())["probes"]
    assert list(known) == names and all(one["line"] for one in known.values())
    stored = pd.read_parquet(tmp_path / "run" / "probes.parquet")
    for name in names:  # every measure of every probe has a row in the section of its probe
        section = page.split(f"<h3>{name}</h3>")[1].split("<h3>")[0].split("<h2>")[0]
        for measure in stored.loc[stored["probe"] == name, "measure"].unique():
            assert f"<td>{measure}</td>" in section, (name, measure)
    assert {"climbing", "sweeping the probes", "figures and report"} <= set(stages.read(tmp_path / "run"))
    assert "sweeping the probes" in page


@pytest.mark.slow
def test_a_run_of_cells_alone_has_a_report_too(tmp_path, monkeypatch):
    monkeypatch.setattr(survival, "QUICK", SMALL)
    survival.run("induction", probes=["attribution:n=4"], quick=True, workers=1, out=tmp_path / "run", progress=False)
    page = (tmp_path / "run" / "report.html").read_text()
    assert re.findall(r"<h3>(.*?)</h3>", page) == ["attribution"]
    assert "Half-retention scales" not in page
