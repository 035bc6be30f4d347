"""Worker processes that die: replaced, their units done again; a unit that ends every process is named."""

import os
import signal
import sys
import time

import pytest

from degrade.engine import UnitError, processes, settle
from degrade.journal import place
from degrade.noise import Key
from degrade.places import Place
from tests.degrade.runs import deadly, dies_once, left_alone, same, small


def add(one, two):
    return one + two


def die(key):
    os.kill(os.getpid(), signal.SIGKILL)


def fail(key):
    raise ValueError("no such thing")


def name(_):
    time.sleep(0.2)
    return os.getpid()


def test_a_killed_workers_unit_is_done_again_to_the_same_bits(tmp_path):
    small(tmp_path / "serial")
    small(tmp_path / "killed", dies_once(tmp_path / "marker"), workers=2)
    assert (tmp_path / "marker").exists()
    same(tmp_path / "serial", tmp_path / "killed")


def test_workers_are_replaced_whoever_kills_them():
    with processes(1, settle) as crew:
        os.kill(crew.submit(name, 0).result(), signal.SIGKILL)
        assert [crew.submit(add, n, 1).result() for n in range(4)] == [1, 2, 3, 4]


def test_a_poisonous_unit_is_named_and_the_others_are_done():
    key = Key(seed=0, stage="production", rung=3, chain=1)
    with processes(1, settle) as crew:
        poison = crew.submit(die, key)
        others = [crew.submit(add, number, 1) for number in range(4)]
        assert [other.result() for other in others] == [1, 2, 3, 4]
        with pytest.raises(
            UnitError, match=r"production of rung 3, chain 1 .* ended its worker process 3 times.*memory"
        ):
            poison.result()


def test_an_error_of_a_unit_is_not_tried_again_and_says_where_it_came_up():
    with processes(1, settle) as crew, pytest.raises(ValueError, match="no such thing") as raised:
        crew.submit(fail, Key(seed=0, stage="cooling", rung=2)).result()
    assert "in cooling of rung 2, chain 0 (part 0)" in raised.value.__notes__


@pytest.mark.slow
def test_a_loss_that_ends_every_worker_stops_the_run_with_a_reason(tmp_path):
    with pytest.raises(UnitError, match="calibration of rung 1, chain 0"):
        small(tmp_path / "run", deadly(), workers=2)
    left_alone(tmp_path)
    assert not place(tmp_path / "run").exists()


def test_a_cluster_is_asked_for_by_name_and_its_absence_is_said(tmp_path, monkeypatch):
    with pytest.raises(ValueError, match="address='auto' means a Ray cluster, and the engine is 'processes': add"):
        small(tmp_path / "run", address="auto")
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ImportError, match=r"engine='ray' needs Ray: pip install 'natural-degradation\[ray\]'"):
        small(tmp_path / "run", engine="ray")
    with processes(1, settle, place=Place()) as crew:
        assert crew.submit(add, 1, 1).result() == 2
