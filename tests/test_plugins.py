"""Plug-ins of somebody else: installed, found, named with settings; clashes and broken ones raise their cause."""

import re
import warnings

import pandas as pd
import pytest
from typer.testing import CliRunner

from degrade import cli, plugins
from probes import Subject, sweep
from studies.subject import build_probes
from tests.probes import toys
from tests.thirdparty import GOOD, install


@pytest.fixture(scope="module")
def model():
    return toys.bridge()


@pytest.fixture(scope="module")
def packages(tmp_path_factory):
    """Installed copies of the package by what they register; each is installed once."""
    made = {}

    def with_points(points):
        key = tuple(points.items())
        if key not in made:
            made[key] = install(tmp_path_factory.mktemp("package"), points)
        return made[key]

    return with_points


@pytest.fixture
def installed(monkeypatch, packages):
    """Puts an installed copy on the path for one test."""

    def put(points):
        monkeypatch.syspath_prepend(str(packages(points)))

    return put


def listed(*arguments):
    return CliRunner().invoke(cli.app, ["list", *arguments])


def test_an_installed_package_is_found_listed_and_swept(installed, model):
    installed(GOOD)
    output = listed("probes").output
    assert re.search(r"size +How large are the weights\?", output) and re.search(r"needs any model", output)
    subject = Subject(model)
    built = build_probes(subject, ["size:power=3,parts=a+b", "depth"], {})
    assert built[0].power == 3 and built[0].parts == ("a", "b")
    table = sweep(toys.Ladder(model, rungs=1, chains=1, draws=1), built, progress=False)
    assert set(table["probe"]) == {"size", "depth"}


def test_lists_name_each_plugin_with_one_line_and_probes_with_their_needs():
    output = listed().output
    for name in ("induction", "heads", "ioi", "memorisation", "ngrams", "replacement", "survival", "mixture"):
        assert re.search(rf"^  {name} +\S", output, re.MULTILINE), name
    for name, point in plugins.installed("probes").items():
        if point.dist is not None and point.dist.name == "natural-degradation":
            assert plugins.find("probes", name).needs, f"probe {name} does not say what it needs"


def test_a_taken_name_names_both_packages(installed):
    installed({"induction": "otherlab_probes:Size"})
    with pytest.raises(plugins.PluginError, match=r"two packages register probes 'induction': .*otherlab") as raised:
        plugins.find("probes", "recall")
    assert "natural-degradation" in str(raised.value) and "uninstall one" in str(raised.value)


def test_a_broken_import_raises_its_cause(installed):
    installed({"broken": "otherlab_broken:Probe"})
    with pytest.raises(plugins.PluginError, match="from otherlab.*the laboratory has closed") as raised:
        plugins.find("probes", "broken")
    assert isinstance(raised.value.__cause__, RuntimeError)


def test_a_missing_dependency_is_named(installed):
    installed({"needy": "otherlab_needy:Probe"})
    with pytest.raises(plugins.PluginError, match="needs the module 'a_package_that_nobody_has'") as raised:
        plugins.find("probes", "needy")
    assert isinstance(raised.value.__cause__, ModuleNotFoundError)


def test_a_missing_object_is_a_broken_plugin(installed):
    installed({"absent": "otherlab_probes:Nothing"})
    with pytest.raises(plugins.PluginError, match="'absent'.*Nothing"):
        plugins.find("probes", "absent")


def test_a_list_shows_the_good_ones_and_then_raises_what_is_broken(installed):
    installed({**GOOD, "broken": "otherlab_broken:Probe", "needy": "otherlab_needy:Probe"})
    result = listed("probes")
    assert "How large are the weights?" in result.output and "induction" in result.output
    assert isinstance(result.exception, plugins.PluginError)
    assert "the laboratory has closed" in str(result.exception) and "a_package_that_nobody_has" in str(result.exception)


def test_a_broken_plugin_does_not_keep_others_from_being_used(installed):
    installed({**GOOD, "broken": "otherlab_broken:Probe"})
    assert plugins.find("probes", "size").name == "size"


def test_all_that_is_wrong_is_said_at_once_and_before_anything_is_built(model):
    asked = ["telepathy", "induction:size=3,n=many", "kinds:n", "reading", "patching:n=2"]
    with pytest.raises(ValueError, match="telepathy") as raised:
        build_probes(toys.subject(model), asked, {})
    said = str(raised.value)
    for part in ("unknown name 'telepathy'", "no setting 'size'", "n='many' does not fit", "expected NAME:key=value"):
        assert part in said
    assert "reading: hook= must be given" in said


def test_settings_of_a_study_file_are_checked_like_those_of_the_command_line(model):
    subject = toys.subject(model)
    (probe, _) = build_probes(subject, {"induction": {"n": 3}}, {})
    assert len(probe.tokens) == 3
    with pytest.raises(ValueError, match="no setting 'm'.*its settings are n, seed"):
        build_probes(subject, {"induction": {"m": 3}}, {})


def test_what_a_subject_lacks_is_said_for_each_probe_asked_for(model):
    with pytest.raises(ValueError, match="recall: .*no organism.*; kinds: .*no organism"):
        build_probes(Subject(model), ["recall", "kinds"], {})


def test_all_is_every_probe_that_fits_and_the_others_are_named(model):
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        built = build_probes(toys.subject(model), ["all"], {})
    names = {probe.name for probe in built}
    assert {"induction", "heads", "kinds", "logit-lens", "memorisation", "ngrams", "patching", "recall"} <= names
    left_out = " ".join(str(one.message) for one in warned)
    assert "left out: reading: hook= must be given" in left_out and "left out: ioi: " in left_out


def test_a_probe_cannot_be_asked_twice(model):
    with pytest.raises(ValueError, match="'induction' is asked for twice"):
        build_probes(toys.subject(model), ["induction:n=2", "induction:n=3"], {})


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"n": "16"}, {"n": 16}),
        ({"names": "one"}, {"names": ["one"]}),
        ({"names": ["one", "two"]}, {"names": ["one", "two"]}),
        ({"share": 1}, {"share": 1.0}),
        ({"maybe": None}, {"maybe": None}),
    ],
)
def test_settings_are_read_as_declared(settings, expected):
    def build(subject, *, n: int = 1, names: list[str] | None = None, share: float = 0.5, maybe: int | None = 3):
        """Types as probes declare them."""

    assert plugins.check_settings("mine", build, settings) == expected


def test_a_custom_metric_on_any_hook_is_one_line(model):
    from probes import Reading

    tokens = toys.Corpus().heldout(4, seed=0).tokens
    table = sweep(
        toys.Ladder(model, rungs=1, chains=1, draws=1),
        [Reading("blocks.0.hook_mlp_out", lambda x: x.norm(dim=(1, 2)), tokens)],
        progress=False,
    )
    assert isinstance(table, pd.DataFrame) and set(table["rung"]) == {0, 1}
