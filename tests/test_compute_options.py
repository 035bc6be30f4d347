"""How ladders are computed, said on the command line or in a study file: recorded, gone on with, and checked."""

import json
from importlib.metadata import EntryPoint

import pytest
import torch

from degrade import cli, plugins, study_file
from degrade.compute import Compute, computing
from degrade.journal import RUN, place
from degrade.naming import open_model
from tests.degrade.runs import same


@pytest.fixture
def degrade(monkeypatch, tmp_path, capsys):
    """`degrade ...` in an empty directory with the tiny study: its exit status and what it said."""
    known = plugins.installed
    point = EntryPoint(name="tiny", value="tests.tiny", group="degrade.studies")
    monkeypatch.setattr(plugins, "installed", lambda kind: known(kind) | ({"tiny": point} if kind == "studies" else {}))
    monkeypatch.chdir(tmp_path)

    def command(*arguments):
        monkeypatch.setattr("sys.argv", ["degrade", *map(str, arguments)])
        with pytest.raises(SystemExit) as end:
            cli.main()
        said = capsys.readouterr()
        return end.value.code, said.out + said.err

    return command


def settings(folder):
    return json.loads((folder / "manifest.json").read_text())["settings"]


def test_what_was_said_is_recorded_and_the_file_that_is_left_repeats_it(degrade, tmp_path):
    code, said = degrade(
        "run", "tiny", "--dtype", "bf16", "--device", "cpu", "--micro-batch", 8, "--workers", 1, "--out", "one"
    )
    assert code == 0, said
    told = settings(tmp_path / "one")
    assert (told["dtype"], told["device"], told["micro_batch"]) == ("bfloat16", "cpu", 8)
    assert study_file.read("one/study.yaml").compute == Compute(dtype="bf16", device="cpu", micro_batch=8)
    assert degrade("run", "one/study.yaml", "--workers", 1, "--out", "two")[0] == 0
    assert settings(tmp_path / "two")["micro_batch"] == 8
    same(tmp_path / "one", tmp_path / "two")


def test_a_stopped_run_goes_on_as_it_was_computed_and_is_not_mixed_with_another(degrade, monkeypatch, tmp_path):
    given = ("run", "tiny", "--workers", 1, "--out", "one")
    with monkeypatch.context() as patch:
        patch.setattr("tests.tiny.sweep_all", lambda *_, **__: (_ for _ in ()).throw(ValueError("stopped here")))
        assert degrade(*given, "--micro-batch", 8)[0] == 2
    assert json.loads((place(tmp_path / "one") / RUN).read_text())["command"]["compute"]["micro_batch"] == 8
    code, said = degrade(*given, "--micro-batch", 4)
    assert code == 2 and "compute micro_batch was 8, is 4" in said
    assert degrade("resume", "one")[0] == 0
    assert settings(tmp_path / "one")["micro_batch"] == 8


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--dtype", "half"], "dtype='half'; expected float32, fp32, bfloat16, bf16"),
        (["--device", "cuda:99"], "device='cuda:99' is not there; expected one of cpu"),
        (["--micro-batch", "0"], "micro_batch=0; expected at least 1 example"),
        (["--compile", "--checkpointing"], "expected one of them"),
        (["--chains-at-once", "0"], "chains_at_once=0; expected at least 1 chain"),
    ],
)
@pytest.mark.parametrize("command", ["run", "validate"])
def test_mistakes_are_one_sentence_and_leave_nothing(degrade, tmp_path, command, options, said):
    code, told = degrade(command, "survival", *options)
    assert code == 2 and told.startswith("degrade: ") and said in told
    assert list(tmp_path.iterdir()) == []


def test_mistakes_in_a_file_are_told_with_their_line(degrade, tmp_path):
    (tmp_path / "mine.yaml").write_text("study: survival\nseed: -1\ndtype: half\n")
    code, said = degrade("validate", "mine.yaml")
    assert code == 2 and "mine.yaml:2: seed" in said and "mine.yaml:3: dtype: dtype='half'; expected" in said


def test_beside_a_file_nothing_is_said_twice(degrade, tmp_path):
    (tmp_path / "mine.yaml").write_text("study: tiny\n")
    code, said = degrade("run", "mine.yaml", "--micro-batch", 4)
    assert code == 2 and "--micro-batch was given beside it: change it in the file" in said


def test_a_model_that_is_named_lies_on_the_device_of_the_block():
    with computing(Compute(device="cpu")):
        assert next(open_model("induction")[0].parameters()).device == torch.device("cpu")
