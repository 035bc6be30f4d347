"""`degrade run`, stopped, `degrade status` and `degrade resume`, on a study of a second."""

import sys
from importlib.metadata import EntryPoint

import pytest

from degrade import cli, parts, plugins
from degrade.journal import place
from tests.degrade.runs import kept, killed, left_alone, same


@pytest.fixture(autouse=True)
def tiny(monkeypatch):
    """The tiny study, installed."""
    point = EntryPoint(name="tiny", value="tests.tiny", group="degrade.studies")
    monkeypatch.setattr(plugins, "installed", lambda kind: {"tiny": point} if kind == "studies" else {})


def command(*arguments):
    """The exit status of `degrade ...`."""
    sys.argv = ["degrade", *map(str, arguments)]
    with pytest.raises(SystemExit) as end:
        cli.main()
    return end.value.code


def interrupted(monkeypatch, moment, *arguments):
    """The same, with Ctrl-C at the n-th file that is stored, or at one of that name."""
    real, written = parts.replace, []

    def replace(path, fill):
        written.append(path)
        if len(written) == moment or path.stem == moment:
            raise KeyboardInterrupt
        real(path, fill)

    with monkeypatch.context() as patch:
        patch.setattr(parts, "replace", replace)
        return command(*arguments)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    from tests import tiny

    out = tmp_path_factory.mktemp("whole") / "run"
    tiny.run(out=out, tilt=0.5)
    return out


@pytest.mark.parametrize("moment", [30, "part-001"])
def test_a_study_that_was_stopped_goes_on_where_it_was(monkeypatch, capsys, tmp_path, whole, moment):
    """Stopped in the ladder, and in the sweep's last part."""
    monkeypatch.chdir(tmp_path)
    begun = interrupted(monkeypatch, moment, "run", "tiny", "--tilt", 0.5, "--workers", 1)
    said = capsys.readouterr().err
    assert begun == 130, said
    assert "degrade: stopped." in said
    assert "`degrade resume runs/tiny` goes on from there" in said
    assert command("status", "runs/tiny") == 0
    said = capsys.readouterr().out
    assert "stopped by KeyboardInterrupt" in said
    assert "begun by: degrade run tiny --tilt 0.5" in said
    assert ("sweep-1: 1 of 2 done" in said) == (moment == "part-001")
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    assert command("resume", "../runs/tiny") == 0
    assert "rows" in capsys.readouterr().out
    same(whole, tmp_path / "runs" / "tiny")
    left_alone(tmp_path / "runs", "tiny")
    assert command("resume", "../runs/tiny") == 0
    assert "is finished" in capsys.readouterr().out
    assert command("status", "../runs/tiny") == 0


def test_the_same_command_goes_on_and_another_is_refused(monkeypatch, capsys, tmp_path, whole):
    out = tmp_path / "run"
    interrupted(monkeypatch, 30, "run", "tiny", "--tilt", 0.5, "--workers", 1, "--out", out)
    before = kept(out)
    assert command("run", "tiny", "--tilt", 0.25, "--workers", 1, "--out", out) == 2
    assert "argument tilt was 0.5, is 0.25" in capsys.readouterr().err
    assert kept(out) == before
    assert command("run", "tiny", "--tilt", 0.5, "--workers", 1, "--out", out) == 0
    same(whole, out)


def test_changed_code_is_named(monkeypatch, capsys, tmp_path):
    out = tmp_path / "run"
    interrupted(monkeypatch, 10, "run", "tiny", "--workers", 1, "--out", out)
    monkeypatch.setattr("degrade.runs.code_key", lambda package: f"another {package}")
    assert command("resume", out) == 2
    said = capsys.readouterr().err
    assert "the code of degrade was" in said
    assert "the code of tests was" in said


def test_nothing_to_resume_and_nothing_to_tell(capsys, tmp_path):
    assert command("resume", tmp_path / "run") == 2
    assert "nothing was begun for" in capsys.readouterr().err
    assert command("status", tmp_path / "run") == 2
    assert "holds no run" in capsys.readouterr().err


def test_a_ladder_of_a_script_says_how_it_goes_on(capsys, tmp_path):
    from tests.degrade.runs import small

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("degrade.build.Ladder.save", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            small(tmp_path / "run")
    assert command("resume", tmp_path / "run") == 2
    assert "was begun from Python" in capsys.readouterr().err


def test_a_study_that_is_killed_again_and_again(tmp_path, whole):
    out, patience = tmp_path / "run", 0.3
    while not out.exists():
        again = ["resume", out] if place(out).exists() and kept(out) else ["run", "tiny", "--tilt", 0.5, "--out", out]
        killed(command, *again, *(["--workers", 1]), after=patience)
        patience *= 1.5
    same(whole, out)
    left_alone(tmp_path, "run")
