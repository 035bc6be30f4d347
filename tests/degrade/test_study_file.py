"""Study files: numbers and values as written, everything that is wrong at once with its line, and the way back."""

from importlib.metadata import EntryPoint

import pytest

from degrade import plugins
from degrade.study_file import StudyFileError, dump, embed, is_file, leave, parse, read


@pytest.fixture
def tiny(monkeypatch):
    """The tiny study beside the package's own plug-ins."""
    found, point = plugins.installed, EntryPoint(name="tiny", value="tests.tiny", group="degrade.studies")
    monkeypatch.setattr(plugins, "installed", lambda kind: found(kind) | ({"tiny": point} if kind == "studies" else {}))


@pytest.mark.parametrize(
    ("written", "value"),
    [("1e-4", 1e-4), ("1E+2", 100.0), (".5", 0.5), ("3", 3.0), ("1.", 1.0), ("-2.5e-3", -2.5e-3)],
)
def test_numbers_are_numbers(written, value):
    assert parse(f"study: survival\nrises: [{written}]").arguments == {"rises": [value]}


@pytest.mark.parametrize("written", ["no", "off", "2024-01-01", "12:30", "0o17"])
def test_what_yaml_1_1_makes_something_else_of_stays_text(written):
    assert parse(f"study: survival\nmodel: {written}").arguments == {"model": written}


def test_all_keys_of_a_study():
    text = """
study: survival
model: org/model@step1000
data: book.txt
context: 64
rises: [0.1, 0.2]
probes:
  induction: {n: 32}
  kinds:
seed: 3
quick: true
workers: 4
out: runs/mine
"""
    told = parse(text)
    assert told.study == "survival"
    assert told.arguments == {
        "model": "org/model@step1000", "data": "book.txt", "context": 64, "rises": [0.1, 0.2], "seed": 3,
        "probes": {"induction": {"n": 32}, "kinds": None}, "quick": True, "workers": 4, "out": "runs/mine",
    }  # fmt: skip


def test_everything_that_is_wrong_is_told_at_once_with_its_line():
    text = """study: survival
seed: -1
rises: [0.1, high]
quick: maybe
colour: red
probes:
  induction: {n: many, size: 3}
  telepathy: {}
seed: 2
"""
    with pytest.raises(StudyFileError) as told:
        parse(text, "mine.yaml")
    said = str(told.value)
    for part in (
        "mine.yaml:3: rises.1: input should be a valid number",
        "mine.yaml:4: quick: input should be a valid boolean",
        "mine.yaml:5: colour: study 'survival' takes no 'colour'; it takes model, data, context",
        "mine.yaml:7: probes.induction: induction: n='many' does not fit",
        "no setting 'size'",
        "mine.yaml:8: probes.telepathy: unknown name 'telepathy' among the probes",
        "mine.yaml:9: seed: the key 'seed' is given twice",
    ):
        assert part in said


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "holds NoneType; expected keys and values"),
        ("- survival", "holds list; expected keys and values"),
        ("model: mixture", "mine.yaml:1: the key `study` is missing; expected one of .*survival"),
        ("study: surviva", "mine.yaml:1: study: unknown study 'surviva'; the known ones are: .*survival"),
        ("study: [survival]", "study: unknown study"),
        ("study: survival\nmodel: {", "mine.yaml:2: no YAML"),
        ("study: survival\nseed: -1", "mine.yaml:2: seed: input should be greater than or equal to 0 .got -1"),
        ("study: survival\nworkers: 0", "mine.yaml:2: workers: input should be greater than or equal to 1"),
        ("study: survival\nprobes: 3", "mine.yaml:2: probes: expected a list of names, or settings by name, got 3"),
        ("study: survival\nprobes: {kinds: 3}", "probes.kinds: expected settings as keys and values, got 3"),
        ("study: survival\nprobes:\n- [kinds]", "mine.yaml:3: probes.0: expected NAME or NAME:key=value"),
        ("study: survival\n3: 4", "mine.yaml:2: 3: study 'survival' takes no '3'"),
    ],
)
def test_one_mistake(text, said):
    with pytest.raises(StudyFileError, match=said):
        parse(text, "mine.yaml")


def test_a_file_that_is_not_there(tmp_path):
    assert is_file("mine.yaml") and is_file("mine.yml") and not is_file("survival")
    with pytest.raises(FileNotFoundError, match="there is no study file .*typo.yaml"):
        read(tmp_path / "typo.yaml")


def test_what_is_written_reads_back():
    given = {
        "model": "mixture",
        "rises": [1e-4, 0.5],
        "probes": ["induction:n=3"],
        "seed": 1,
        "data": None,
        "quick": False,
    }
    told = parse(dump("survival", given, note="one\ntwo"))
    assert told.arguments == {name: value for name, value in given.items() if value is not None}
    assert parse("study: survival\nprobes: all").arguments == {"probes": ["all"]}


def test_the_report_shows_the_file_once_and_as_it_is(tmp_path):
    (tmp_path / "report.html").write_text("<html><body>figures</body></html>")
    leave(tmp_path, "study: survival\nmodel: <b>&</b>\n")
    page = (tmp_path / "report.html").read_text()
    assert "<pre>study: survival\nmodel: &lt;b&gt;&amp;&lt;/b&gt;\n</pre>" in page and page.endswith("</body></html>")
    embed(tmp_path)
    assert (tmp_path / "report.html").read_text() == page


def test_a_run_leaves_the_file_that_repeats_it(tiny, monkeypatch, tmp_path):
    """A study of a second from a file, and again from the file that it left: the same bits."""
    from degrade import cli
    from tests.degrade.runs import same

    def command(*arguments):
        monkeypatch.setattr("sys.argv", ["degrade", *map(str, arguments)])
        with pytest.raises(SystemExit) as end:
            cli.main()
        return end.value.code

    (tmp_path / "mine.yaml").write_text(f"study: tiny\nseed: 5\ntilt: 2.5e-1\nworkers: 1\nout: {tmp_path / 'one'}\n")
    assert command("run", tmp_path / "mine.yaml") == 0
    left = tmp_path / "one" / "study.yaml"
    assert read(left).arguments == {"seed": 5, "tilt": 0.25}
    assert "# natural-degradation" in left.read_text() and "model sha256" in left.read_text()
    assert command("run", left, "--out", tmp_path / "two", "--workers", 1) == 0
    same(tmp_path / "one", tmp_path / "two")


def test_beside_a_file_nothing_is_said_twice(tiny, monkeypatch, capsys, tmp_path):
    from degrade import cli

    (tmp_path / "mine.yaml").write_text("study: tiny\n")
    monkeypatch.setattr("sys.argv", ["degrade", "run", str(tmp_path / "mine.yaml"), "--seed", "3", "--tilt", "1"])
    with pytest.raises(SystemExit):
        cli.main()
    assert "says all of a study, and --seed, --tilt, 1 was given beside it" in capsys.readouterr().err
