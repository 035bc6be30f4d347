"""The journal: what is stored comes back bit for bit, once, and only for what it was computed from."""

import math
from dataclasses import dataclass

import numpy as np
import pytest
import torch

from degrade import parts
from degrade.journal import MISSING, Journal, JournalError, active, notes, opened, place
from tests.degrade.runs import left_alone


@dataclass
class Result:
    weights: list
    trace: np.ndarray
    name: str


def result():
    generator = torch.Generator().manual_seed(0)
    plain = torch.randn(4, 5, generator=generator)
    odd = torch.tensor([0.0, -0.0, math.nan, math.inf])
    return Result([plain, plain, plain.T, odd, plain.bfloat16()], np.array([0.1, math.nan]), "x")


def test_a_result_comes_back_bit_for_bit_with_its_strides_and_what_it_shares(tmp_path):
    made = result()
    parts.write(tmp_path / "one", made)
    back = parts.read(tmp_path / "one")
    for a, b in zip(made.weights, back.weights, strict=True):
        assert (a.dtype, a.shape, a.stride()) == (b.dtype, b.shape, b.stride())
        assert torch.equal(a.contiguous().view(torch.uint8), b.contiguous().view(torch.uint8))
    assert back.weights[0] is back.weights[1]
    assert back.trace.tobytes() == made.trace.tobytes()
    left_alone(tmp_path, "one.json", "one.pt")


def test_what_the_reader_has_takes_no_room(tmp_path):
    large, small = torch.zeros(10_000), torch.ones(3)
    parts.write(tmp_path / "one", (large.clone(), small), lent=[large])
    assert (tmp_path / "one.pt").stat().st_size < 5_000
    back = parts.read(tmp_path / "one", lent=[large])
    assert back[0] is large
    assert torch.equal(back[1], small)


def test_a_result_belongs_to_its_inputs(tmp_path):
    journal = Journal(tmp_path)
    assert journal.read("one", 1) is MISSING
    journal.write("one", "result", 1)
    assert journal.read("one", 1) == "result"
    with pytest.raises(JournalError, match="computed from other inputs than now"):
        journal.read("one", 2)


def test_work_is_done_once(tmp_path):
    journal, done = Journal(tmp_path), []
    for _ in range(3):
        assert journal.once("one", {"a": 1}, lambda: done.append(1) or len(done)) == 1
    assert done == [1]
    assert [note["name"] for note in notes(tmp_path)] == ["one"]
    journal.forget("o*")
    left_alone(tmp_path)


def test_without_a_directory_nothing_is_kept():
    done = []
    for _ in range(2):
        active().part("ladder").once("one", 1, lambda: done.append(1))
    assert done == [1, 1]


def test_what_cannot_be_pickled_is_not_kept_and_this_is_said(tmp_path):
    journal = Journal(tmp_path)
    with pytest.warns(UserWarning, match="one cannot be pickled.*after a stop it would be computed again"):
        journal.write("one", lambda: 1)
    assert journal.read("one") is MISSING
    left_alone(tmp_path)


def test_parts_are_numbered_and_belong_to_the_run_under_way(tmp_path):
    with pytest.raises(KeyboardInterrupt), opened(tmp_path / "run"):  # noqa: PT012
        for number in (1, 2):
            part = active().part("ladder")
            assert part.folder == place(tmp_path / "run") / f"ladder-{number}"
        part.write("one", 1)
        raise KeyboardInterrupt
    assert active().folder is None
    with opened(tmp_path / "run") as run:
        assert run.part("ladder").read("one") is MISSING
        assert run.part("ladder").read("one") == 1
        assert run.clock.before > 0
    left_alone(tmp_path)


def test_inputs_are_agreed_on_per_part(tmp_path):
    journal = Journal(tmp_path)
    journal.agree({"seed": 0, "size": 3.5})
    journal.agree({"seed": 1, "size": 3.5})  # nothing was computed yet
    journal.write("one", 1)
    journal.agree({"size": 3.5, "seed": 1})
    with pytest.raises(JournalError, match="seed was 1, is 2; size was 3.5, is None; more was None, is 0"):
        journal.agree({"seed": 2, "more": 0})
