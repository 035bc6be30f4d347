"""One crew for many ladders: the same bits by the same processes, whose tools are those of the shift they are in."""

import os

import pytest

from degrade.engine import processes, settle
from degrade.noise import Key
from degrade.places import Place, placed
from tests.degrade.runs import dies_once, same, small
from tests.degrade.test_engine import fail, name

HELD = {}


def hold(value):
    settle()
    HELD["value"] = value


def held(_):
    return HELD["value"]


def pids() -> set[int]:
    """Processes that answer."""
    with processes(2, settle) as crew:
        return {one.result() for one in [crew.submit(name, number) for number in range(4)]}


@pytest.fixture
def resident():
    with placed(Place(), 2):
        yield


def test_ladders_have_the_serial_bits_and_share_their_processes(tmp_path, resident):
    small(tmp_path / "serial")
    small(tmp_path / "one", workers=2)
    first = pids()
    small(tmp_path / "two", workers=2)
    assert pids() == first and os.getpid() not in first
    same(tmp_path / "serial", tmp_path / "one")
    same(tmp_path / "serial", tmp_path / "two")


def test_each_shift_has_its_own_tools_whoever_worked_before(resident):
    for value in ("one", "two"):
        with processes(2, hold, value) as crew:
            assert [one.result() for one in [crew.submit(held, number) for number in range(6)]] == [value] * 6


def test_a_worker_that_dies_in_a_later_shift_is_replaced_and_equipped(tmp_path, resident):
    small(tmp_path / "serial")
    first = pids()
    small(tmp_path / "killed", dies_once(tmp_path / "marker"), workers=2)
    assert (tmp_path / "marker").exists() and pids() != first
    same(tmp_path / "serial", tmp_path / "killed")


def test_an_error_ends_the_crew_and_the_next_shift_hires_another(resident):
    first = pids()
    with pytest.raises(ValueError, match="no such thing"), processes(2, settle) as crew:
        crew.submit(fail, Key(seed=0, stage="cooling", rung=2)).result()
    assert not pids() & first


@pytest.mark.slow
def test_a_shift_within_a_shift_or_of_another_size_has_workers_of_its_own(resident):
    first = pids()
    with processes(2, hold, "outer") as crew:
        assert not pids() & first
        assert crew.submit(held, 0).result() == "outer"
    with processes(1, settle) as lone:
        assert lone.submit(name, 0).result() not in first
