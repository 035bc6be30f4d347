import pytest
from typer.testing import CliRunner

from degrade import cli, plugins


def invoke(*arguments):
    return CliRunner().invoke(cli.app, list(arguments))


def test_help_and_lists():
    assert "Degrade a trained network" in invoke("--help").output
    listed = invoke("list").output
    for name in ("induction", "kinds", "patching", "recall", "survival", "mixture"):
        assert name in listed


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["run", "surviva"], "unknown name 'surviva' among the studies; the known ones are: .*survival"),
        (
            ["run", "survival", "--model", "gpt5"],
            "model .gpt5. is no organism .those are .*mixture.*so it brings no data: give documents with --data",
        ),
        (
            ["run", "survival", "--model", "gpt5", "--data", "README.rst"],
            "data 'README.rst': there is no such file or directory; expected a text file",
        ),
        (["run", "survival", "--context", "32"], "context=32 is for documents given with --data"),
        (["validate", "mine.yaml"], "there is no study file 'mine.yaml'; expected YAML with a key `study`"),
        (["validate", "survival", "--colour", "3"], "study 'survival' takes no --colour; it takes --model, --data"),
        (["run", "survival", "--probe", "telepathy"], "unknown name 'telepathy' among the probes.*induction"),
        (["run", "survival", "--probe", "induction:size=3"], "no setting 'size'"),
        (["run", "survival", "--probe", "induction:size"], "expected NAME:key=value"),
        (["run", "patching", "--controls"], "study 'patching' takes no --controls"),
        (["list", "samplers"], "unknown kind 'samplers'; the known ones are: probes, studies, organisms"),
        (["report", "nowhere"], "holds no manifest.json"),
    ],
)
def test_mistakes_are_one_sentence_and_leave_nothing(arguments, said, monkeypatch, capsys, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["degrade", *arguments])
    with pytest.raises(SystemExit) as stop:
        cli.main()
    assert stop.value.code == 2
    error = capsys.readouterr().err
    assert error.startswith("degrade: ")
    import re

    assert re.search(said, error)
    assert list(tmp_path.iterdir()) == []


def test_an_out_that_holds_another_run_is_refused(monkeypatch, capsys, tmp_path):
    (tmp_path / "mine").mkdir()
    monkeypatch.setattr("sys.argv", ["degrade", "run", "survival", "--out", str(tmp_path / "mine")])
    with pytest.raises(SystemExit):
        cli.main()
    assert "already holds a run" in capsys.readouterr().err
    assert list((tmp_path / "mine").iterdir()) == []


@pytest.mark.parametrize(
    ("manifest", "said"),
    [
        ('{"format": 99, "study": "survival"}', "has format 99; this version reads up to 2: upgrade"),
        ('{"format": 2, "stu', "manifest.json cannot be read .*; expected the manifest that the run wrote"),
        ('{"format": 2}', "holds a ladder without a study; expected the directory of a finished `degrade run`"),
    ],
)
def test_a_report_of_what_is_no_finished_run_is_refused(manifest, said, monkeypatch, capsys, tmp_path):
    (tmp_path / "manifest.json").write_text(manifest)
    monkeypatch.setattr("sys.argv", ["degrade", "report", str(tmp_path)])
    with pytest.raises(SystemExit) as stop:
        cli.main()
    assert stop.value.code == 2
    import re

    assert re.search(said, capsys.readouterr().err)


def entry(name, value):
    from importlib.metadata import EntryPoint

    return EntryPoint(name=name, value=value, group="degrade.probes")


def test_a_name_claimed_twice_names_both():
    with pytest.raises(plugins.PluginError, match="'one'.*a:b and c:d"):
        plugins.by_name("probes", [entry("one", "a:b"), entry("one", "c:d")])


def test_a_plugin_that_does_not_import_raises_its_cause(monkeypatch):
    monkeypatch.setattr(plugins, "installed", lambda kind: {"broken": entry("broken", "no_such_package:Probe")})
    with pytest.raises(plugins.PluginError, match="no_such_package") as raised:
        plugins.find("probes", "broken")
    assert isinstance(raised.value.__cause__, ModuleNotFoundError)
