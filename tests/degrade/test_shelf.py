"""Draws on disk: the bits of those in memory, none of them held, files that go when they are not needed."""

import errno
import gc
import os
import pickle
import shutil
import warnings

import pandas as pd
import pytest
import torch
from safetensors.torch import load_file

import degrade
from degrade import memory, parts
from degrade.fingerprint import key_of
from degrade.journal import place
from degrade.memory import TooLargeError
from degrade.shelf import Shelf, store
from degrade.shelved import Shelved
from tests.degrade.runs import kept, same, small
from tests.degrade.toys import quadratic


def weights(seed=0):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(3, 4, generator=generator).T, torch.randn((), generator=generator), torch.zeros(0, 2)]


def equal(one, two):
    return len(one) == len(two) and all(torch.equal(a, b) for a, b in zip(one, two, strict=True))


def test_a_draw_comes_back_bit_for_bit_and_the_format_is_that_of_safetensors(tmp_path):
    shelf = Shelf(tmp_path / "draws", ["a", "b", "c"])
    draw = shelf.put(weights(), 1, 0, 0, 25)
    assert equal(draw, weights()) and torch.equal(draw[1], weights()[1]) and equal(draw[:2], weights()[:2])
    assert equal(list(load_file(draw.path).values()), weights())
    assert equal(pickle.loads(pickle.dumps(draw)), weights())
    assert key_of(draw) == key_of([tensor.contiguous() for tensor in weights()])
    assert len(pickle.dumps(shelf.put([torch.zeros(10**6)] * 3, 1, 0, 0, 50))) < 1000


def test_the_journal_finds_draws_again_where_it_was_moved_and_says_if_one_is_damaged(tmp_path):
    folder = tmp_path / "one"
    folder.mkdir()
    draw = Shelf(folder / "draws", ["a", "b", "c"]).put(weights(), 1, 0, 0, 25)
    parts.write(folder / "result", {"draw": draw})
    folder.rename(tmp_path / "two")
    back = parts.read(tmp_path / "two" / "result")["draw"]
    assert equal(back, weights()) and back.path.parent.parent == tmp_path / "two"
    back.path.write_bytes(back.path.read_bytes()[:-1])
    with pytest.raises(parts.DamagedError, match=r"step-00025.safetensors is damaged: it has \d+ bytes of \d+"):
        parts.read(tmp_path / "two" / "result")


def test_a_full_disk_is_said_where_the_draw_is_waited_for(tmp_path, monkeypatch):
    def fsync(handle):
        raise OSError(errno.ENOSPC, "No space left on device")

    shelf = Shelf(tmp_path / "draws", ["a", "b", "c"])
    monkeypatch.setattr(os, "fsync", fsync)
    handles = [shelf.put(weights(), 1, 0, 0, step) for step in range(5)]  # more than may wait: none is lost
    for handle in handles:
        with pytest.raises(OSError, match="No space left on device; make room"):
            handle.wait()


@pytest.mark.parametrize("workers", [1, 2])
def test_a_ladder_on_disk_has_the_bits_of_one_in_memory_and_holds_no_draw(tmp_path, monkeypatch, workers):
    inside = small(None)
    assert all(isinstance(draw.weights, list) for draw in inside.draws())
    inside.save(tmp_path / "inside")
    stored = small(tmp_path / "stored", workers=workers)
    monkeypatch.setattr("degrade.memory.free", lambda device=None: 200_000 if device else 300)
    apart = small(None)
    folder = next(apart.draws()).weights.path.parent
    for ladder in (stored, apart):
        assert all(isinstance(draw.weights, Shelved) for draw in ladder.draws())
        assert len(pickle.dumps(ladder.kept)) < 400 * len(ladder.kept)
        pd.testing.assert_frame_equal(ladder.table, inside.table, check_exact=True)
        assert all(equal(a.weights, b.weights) for a, b in zip(ladder.draws(), inside.draws(), strict=True))
    same(tmp_path / "inside", tmp_path / "stored")
    assert len(list(folder.glob("*.safetensors"))) == len(apart.kept)
    del apart, ladder
    gc.collect()
    assert not folder.exists()


def test_a_killed_runs_damaged_draw_is_drawn_again(tmp_path, monkeypatch):
    def stop(*_):
        raise KeyboardInterrupt

    out = tmp_path / "run"
    small(tmp_path / "whole")
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr("degrade.build.Ladder.save", stop)
        small(out)
    files = sorted(place(out).glob("ladder-1/draws/*.safetensors"))
    assert len(files) == 8 and kept(out)
    files[-1].write_bytes(b"")
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        small(out)
    assert any("damaged: it has 0 bytes" in str(one.message) for one in said)
    same(tmp_path / "whole", out)


def test_draws_of_the_first_format_are_read(tmp_path):
    made = small(tmp_path / "run")
    first = [draw for draw in made.draws(1) if draw.chain == 0]
    names = [f"{draw.index}/{name}" for draw in first for name in made.selection.names]
    expected = [[tensor.clone() for tensor in draw.weights] for draw in first]
    shutil.rmtree(tmp_path / "run" / "draws")
    (tmp_path / "run" / "draws").mkdir()
    store(tmp_path / "run" / "draws" / "rung-01-chain-00.safetensors", names, sum(expected, []))
    manifest = tmp_path / "run" / "manifest.json"
    manifest.write_text(manifest.read_text().replace('"format": 2', '"format": 1'))
    back = [d for d in degrade.load(tmp_path / "run", quadratic(cond=10, d=8, examples=128)[0]).draws(1) if not d.chain]
    assert all(equal(one.weights, two) for one, two in zip(back, expected, strict=True))


def test_what_cannot_fit_is_refused_with_the_cure(monkeypatch, tmp_path):
    monkeypatch.setattr("degrade.memory.free", lambda device=None: 1000)
    with pytest.raises(TooLargeError, match=r"needs about .* GiB of memory .* free; expected less: take fewer chains"):
        small(tmp_path / "run")
    monkeypatch.undo()
    monkeypatch.setattr("shutil.disk_usage", lambda _: shutil._ntuple_diskusage(10, 0, 10))
    with pytest.raises(TooLargeError, match=r"draws take .* GiB on disk, and .* are free .*keep='none'"):
        small(tmp_path / "run")
    assert not list(tmp_path.iterdir())


def test_free_memory_is_what_the_group_allows(monkeypatch, tmp_path):
    assert memory.free() > 2**20
    monkeypatch.setattr(memory, "GROUPS", tmp_path)
    (tmp_path / "memory.max").write_text("5000\n")
    (tmp_path / "memory.current").write_text("2000\n")
    assert memory.free() == 3000
    (tmp_path / "memory.max").write_text("max\n")
    assert memory.free() > 2**20
