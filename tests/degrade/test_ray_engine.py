"""A Ray cluster's workers: the serial bits; workers and machines that die; a unit that ends every worker is named."""

import os
import signal
import time

import pytest
import torch

import degrade
from degrade.engine import UnitError, processes, settle
from degrade.noise import Key
from degrade.places import Place, placed
from tests.degrade.runs import dies_once, same, small
from tests.degrade.test_engine import add, die, fail, name
from tests.degrade.toys import classifier

ray = pytest.importorskip("ray")
PLACE = Place("ray")


@pytest.fixture(scope="module", autouse=True)
def cluster():
    """A local cluster of two processors, for all tests here."""
    with placed(PLACE, 2):
        yield


def shared(tensor, number):
    time.sleep(0.1)
    return float(tensor.sum()) + number, tensor


def test_a_ladder_has_the_serial_bits(tmp_path):
    small(tmp_path / "serial")
    small(tmp_path / "ray", engine="ray", workers=2)
    same(tmp_path / "serial", tmp_path / "ray")


def test_a_killed_workers_unit_is_done_again_to_the_same_bits(tmp_path):
    small(tmp_path / "serial")
    small(tmp_path / "killed", dies_once(tmp_path / "marker"), engine="ray", workers=2)
    assert (tmp_path / "marker").exists()
    same(tmp_path / "serial", tmp_path / "killed")


def test_workers_are_replaced_whoever_kills_them():
    with processes(2, settle) as crew:
        os.kill(crew.submit(name, 0).result(), signal.SIGKILL)
        assert [crew.submit(add, number, 1).result() for number in range(4)] == [1, 2, 3, 4]


def test_a_poisonous_unit_is_named_and_the_others_are_done():
    with processes(2, settle) as crew:
        poison = crew.submit(die, Key(seed=0, stage="production", rung=3, chain=1))
        others = [crew.submit(add, number, 1) for number in range(4)]
        assert [other.result() for other in others] == [1, 2, 3, 4]
        with pytest.raises(UnitError, match=r"production of rung 3, chain 1 .* was lost 3 times with its worker"):
            poison.result()


def test_an_error_of_a_unit_is_not_tried_again_and_says_where_it_came_up():
    with processes(2, settle) as crew, pytest.raises(ValueError, match="no such thing") as raised:
        crew.submit(fail, Key(seed=0, stage="cooling", rung=2)).result()
    assert "in cooling of rung 2, chain 0 (part 0)" in raised.value.__notes__


def test_a_large_tensor_travels_once_and_does_not_come_back(monkeypatch):
    put, real = [], ray.put
    with processes(2, settle) as crew:
        monkeypatch.setattr(ray, "put", lambda one: put.append(one) or real(one))
        large = torch.ones(1_000_000)
        results = [future.result() for future in [crew.submit(shared, large, number) for number in range(4)]]
        assert [number for number, _ in results] == [1e6, 1e6 + 1, 1e6 + 2, 1e6 + 3]
        assert all(tensor is large for _, tensor in results)
        assert len(put) == 1
        large += 1
        assert crew.submit(shared, large, 0).result()[0] == 2e6
        assert len(put) == 2


def test_what_a_unit_asks_for_is_given_or_waited_for():
    """A share of a GPU that no machine has is waited for; a share of 0 is not."""
    with processes(2, settle, place=Place("ray", gpus=0.0)) as crew:
        assert crew.submit(add, 1, 1).result() == 2
    with processes(2, settle, place=Place("ray", gpus=0.25)) as crew:
        waiting = crew.submit(add, 1, 1)
        time.sleep(1)
        assert not waiting.done()
        assert crew._ray.cluster_resources().get("GPU", 0) == 0
        crew.close(kill=True)


@pytest.mark.slow
def test_a_lost_machines_units_are_done_again():
    """Two machines of one processor each; the one whose worker has the unit is killed."""
    from ray.cluster_utils import Cluster

    ray.shutdown()
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0})
    try:
        second = cluster.add_node(num_cpus=1)
        with placed(Place("ray", address=cluster.address), 2), processes(2, settle) as crew:
            waiting = crew.submit(slow, 3)
            time.sleep(2)
            cluster.add_node(num_cpus=1)
            cluster.remove_node(second, allow_graceful=False)
            assert waiting.result() == 9
    finally:
        ray.shutdown()
        cluster.shutdown()


def slow(number):
    time.sleep(4)
    return number**2


@pytest.mark.slow
def test_a_classifier_in_three_workers_has_the_serial_bits():
    net, data = classifier()
    given = {"rises": [0.05, 0.1], "width": 0.8, "loss": degrade.label_loss, "chains": 3, "draws": 2, "cool": True,
             "steps": 60, "burn_in": 20, "progress": False}  # fmt: skip
    one, two = degrade.ladder(net, data, **given), degrade.ladder(net, data, engine="ray", workers=3, **given)
    assert one.table.equals(two.table)
    for a, b in zip(one.draws(), two.draws(), strict=True):
        assert all(torch.equal(x, y) for x, y in zip(a.weights, b.weights, strict=True))
