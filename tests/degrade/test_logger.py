"""Telling of rungs as they are climbed: each once with its verdict, only if asked, and without it nothing changes."""

import sys
from types import SimpleNamespace

import pytest

import degrade
from degrade.logger import logging
from tests.degrade.runs import SMALL, same, small
from tests.degrade.toys import quadratic, quadratic_loss


class Stand:
    """In the place of wandb: keeps what it is given."""

    def __init__(self):
        self.given, self.rows, self.ended = [], [], []

    def init(self, **settings):
        self.given.append(settings)
        return SimpleNamespace(
            log=lambda row, step: self.rows.append((step, row)), finish=lambda exit_code: self.ended.append(exit_code)
        )


@pytest.fixture
def wandb(monkeypatch):
    monkeypatch.delenv("WANDB_MODE", raising=False)
    monkeypatch.setitem(sys.modules, "wandb", stand := Stand())
    return stand


def test_each_rung_is_told_once_as_the_table_has_it(wandb, tmp_path):
    ladder = small(tmp_path / "run", log="wandb")
    assert [step for step, _ in wandb.rows] == [1, 2]
    for step, row in wandb.rows:
        kept = ladder.table.iloc[step]
        assert {name: row[name] for name in ("rise", "nbeta", "verdict")} == dict(kept[["rise", "nbeta", "verdict"]])
        assert all(value == value for value in row.values())  # what was not measured is not told
    assert wandb.given[0]["mode"] == "offline" and wandb.given[0]["config"]["setting nbetas"] == [100.0, 50.0]
    assert wandb.ended == [0]


def test_nobody_is_told_unless_that_is_asked_for_and_the_bits_are_the_same(wandb, tmp_path):
    small(tmp_path / "one")
    assert wandb.given == []
    with logging("wandb"):
        small(tmp_path / "two")
    assert len(wandb.rows) == 2
    same(tmp_path / "one", tmp_path / "two")


def test_a_run_that_fails_ends_as_failed(wandb, monkeypatch):
    monkeypatch.setattr("degrade.build.climb", lambda *_: 1 / 0)
    net, x = quadratic(cond=10, d=8, examples=128)
    with pytest.raises(ZeroDivisionError):
        degrade.ladder(net, x, loss=quadratic_loss, progress=False, log="wandb", **SMALL)
    assert wandb.ended == [1]


def test_the_mode_of_the_environment_counts(wandb, monkeypatch, tmp_path):
    monkeypatch.setenv("WANDB_MODE", "disabled")
    small(tmp_path / "run", log="wandb")
    assert wandb.given[0]["mode"] == "disabled"


def test_mistakes(monkeypatch, tmp_path):
    with pytest.raises(ValueError, match="log='tensorboard'; expected wandb, or none"):
        small(tmp_path / "run", log="tensorboard")
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(
        ImportError, match=r"log='wandb' needs Weights & Biases: pip install 'natural-degradation\[wandb\]'"
    ):
        small(tmp_path / "run", log="wandb")
    with pytest.raises(ImportError, match="needs Weights & Biases"), logging("wandb"):
        pass
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_the_library_itself_takes_what_it_is_told(monkeypatch, tmp_path):
    pytest.importorskip("wandb")
    monkeypatch.delenv("WANDB_MODE", raising=False)
    monkeypatch.setenv("WANDB_DIR", str(tmp_path))
    monkeypatch.setenv("WANDB_SILENT", "true")
    small(tmp_path / "run", log="wandb")
    assert list(tmp_path.glob("wandb/offline-run-*/*.wandb"))
