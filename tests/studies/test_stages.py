"""Times of the stages: they add up, and those of a stopped run are kept."""

import pytest

from degrade.journal import opened
from studies import stages


def test_stages_add_up_and_are_read_back(tmp_path):
    clock = stages.begun()
    for name in ("first", "second"):
        clock.ended(name)
    clock.write(tmp_path)
    seconds = stages.read(tmp_path)
    assert list(seconds) == ["first", "second"] and all(value >= 0 for value in seconds.values())
    assert sum(clock.seconds().values()) == pytest.approx(clock.ends["second"] - clock.ends[stages.BEGUN])
    assert stages.read(tmp_path / "elsewhere") == {}


def test_a_stage_that_an_earlier_process_finished_keeps_its_seconds(tmp_path):
    with pytest.raises(RuntimeError), opened(tmp_path / "run"):
        clock = stages.begun()
        clock.ended("opening", keep=False)
        clock.ended("climbing")
        before = clock.seconds()
        raise RuntimeError
    with opened(tmp_path / "run"):
        again = stages.begun()
        again.ended("opening", keep=False)
        again.ended("climbing")
        assert again.seconds() == before
        again.ended("sweeping")
        assert list(again.seconds()) == ["opening", "climbing", "sweeping"]


def test_a_run_that_fails_before_it_has_a_result_leaves_nothing(tmp_path):
    with pytest.raises(RuntimeError), opened(tmp_path / "run"):
        stages.begun().ended("opening", keep=False)
        raise RuntimeError
    assert not list(tmp_path.iterdir())
