"""A run that was stopped, by whatever, goes on from what was finished and ends with the bits of one that was not."""

import errno
import json
import multiprocessing
import os
import random
import time
import warnings

import pytest
import torch

import degrade
from degrade import parts
from degrade.journal import JournalError, place
from degrade.lock import LockedError, held
from degrade.runs import tidy
from degrade.status import lines
from tests.degrade.runs import SMALL, kept, killed, left_alone, same, small
from tests.degrade.toys import quadratic, quadratic_loss


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The run that nothing stopped."""
    out = tmp_path_factory.mktemp("whole") / "run"
    small(out)
    left_alone(out.parent, "run")
    return out


def stopped(monkeypatch, out, number, error):
    """Begin a run, and let the disk or the user stop it at the n-th file it stores."""
    real, written = parts.replace, []

    def replace(path, fill):
        written.append(path)
        if len(written) == number:
            raise error
        real(path, fill)

    with monkeypatch.context() as patch:
        patch.setattr(parts, "replace", replace)
        with pytest.raises(type(error)) as raised:
            small(out)
    return raised.value


@pytest.mark.parametrize("number", [5, 20, 30])
def test_what_was_stopped_anywhere_ends_with_the_same_bits(whole, monkeypatch, tmp_path, number):
    out = tmp_path / "run"
    stop = stopped(monkeypatch, out, number, KeyboardInterrupt())
    assert "degrade resume" in stop.__notes__[-1]
    assert not out.exists()
    before = kept(out)
    assert before
    small(out)
    same(whole, out)
    left_alone(tmp_path, "run")


def test_what_is_finished_is_not_computed_again(monkeypatch, tmp_path):
    out, calls = tmp_path / "run", []

    def counted(model, x):
        calls.append(1)
        return quadratic_loss(model, x)

    def stop(*_):
        raise KeyboardInterrupt

    small(tmp_path / "whole", counted)
    needed, interrupted = len(calls), "degrade.build.Ladder.save"
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(interrupted, stop)
        small(out, counted)
    assert kept(out) == ["rung-001", "ascent-001", "rung-002", "ascent-002"]
    calls.clear()
    small(out, counted)
    assert len(calls) < 0.15 * needed  # the losses at w*, E_max and the first look
    same(tmp_path / "whole", out)


def test_a_full_disk_is_said_and_loses_nothing(whole, monkeypatch, tmp_path):
    real, room = os.fsync, [30]

    def fsync(handle):
        room[0] -= 1
        if room[0] < 0:
            raise OSError(errno.ENOSPC, "No space left on device")
        real(handle)

    out = tmp_path / "run"
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", fsync)
        with pytest.raises(OSError, match="No space left on device; make room.*what was stored before is kept"):
            small(out)
    assert kept(out)
    assert not list(place(out).rglob(f"*{parts.TEMPORARY}"))
    small(out)
    same(whole, out)


def test_a_disk_full_from_the_start_leaves_nothing(monkeypatch, tmp_path):
    def fsync(handle):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", fsync)
    with pytest.raises(OSError, match="No space left on device"):
        small(tmp_path / "deep" / "run")
    left_alone(tmp_path)


def test_a_place_that_cannot_be_written_to_is_said_before_anything_is_computed(monkeypatch, tmp_path):
    def refuse(*_, **__):
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr("pathlib.Path.mkdir", refuse)
    with pytest.raises(PermissionError, match="Permission denied; expected a place to write in: choose another"):
        small(tmp_path / "run", loss=lambda *_: pytest.fail("it computed"))


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_read_only_directory(tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(PermissionError, match="expected a place to write in"):
        small(tmp_path / "run")


@pytest.mark.parametrize("fault", ["truncated", "changed", "no note"])
def test_a_damaged_result_is_said_and_computed_again(whole, monkeypatch, tmp_path, fault):
    out = tmp_path / "run"
    stopped(monkeypatch, out, 30, KeyboardInterrupt())
    last = sorted(place(out).glob("*/rung-*.pt"))[-1]
    content = last.read_bytes()
    if fault == "truncated":
        last.write_bytes(content[:-100])
        assert any("damaged" in line for line in lines(out))
    elif fault == "changed":
        last.write_bytes(content[:-200] + b"x" + content[-199:])
    else:
        last.with_suffix(".json").write_text("{")
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        small(out)
    assert any("it is computed again" in str(one.message) for one in said)
    same(whole, out)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"chains": 3}, "setting chains was 2, is 3"),
        ({"seed": 1}, "setting seed was 0, is 1"),
        ({"loss": lambda model, x: quadratic_loss(model, x) * 1.0}, "the loss was .*, is"),
        ({"heldout": quadratic(cond=10, d=8, examples=32)[1]}, "the held-out data was None, is"),
        ({"observe": [torch.numel]}, r"the observers was \[\], is"),
    ],
)
def test_a_changed_setting_is_named_and_nothing_is_reused(monkeypatch, tmp_path, change, named):
    out = tmp_path / "run"
    stopped(monkeypatch, out, 8, KeyboardInterrupt())
    before = kept(out)
    with pytest.raises(JournalError, match=f"holds results of a run with other inputs: .*{named}"):
        small(out, **change)
    assert kept(out) == before


def test_changed_weights_data_and_versions_are_named(monkeypatch, tmp_path):
    out = tmp_path / "run"
    stopped(monkeypatch, out, 8, KeyboardInterrupt())
    net, x = quadratic(cond=10, d=8, examples=128)
    common = {"loss": quadratic_loss, "out": out, "progress": False, **SMALL}
    net.w.data[0] += 1e-3
    with pytest.raises(JournalError, match="the model's weights was .*; the losses at w"):
        degrade.ladder(net, x, **common)
    net, _ = quadratic(cond=10, d=8, examples=128)
    with pytest.raises(JournalError, match="the data was"):
        degrade.ladder(net, x.flip(0), **common)
    monkeypatch.setattr("degrade.manifest.version", lambda name: "99")
    with pytest.raises(JournalError, match="version of torch was .*, is 99"):
        small(out)


def test_a_journal_of_a_newer_version_is_refused(monkeypatch, tmp_path):
    out = tmp_path / "run"
    stopped(monkeypatch, out, 8, KeyboardInterrupt())
    path = place(out) / "run.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"format": 99}))
    before = kept(out)
    with pytest.raises(ValueError, match="has format 99, this version goes on with 1: take the version that began"):
        small(out)
    assert kept(out) == before
    assert "begun by another version (format 99" in lines(out)[0]


def test_a_run_without_a_result_gives_way_to_another(tmp_path, monkeypatch):
    out = tmp_path / "run"
    place(out).mkdir()
    (place(out) / "run.json").write_text(json.dumps({"format": 1, "inputs": {"seed": 3}, "command": {}}))
    (place(out) / "half.pt.partial").write_text("x")
    small(out)
    left_alone(tmp_path, "run")


def test_a_run_that_is_killed_again_and_again_ends_with_the_same_bits(whole, tmp_path):
    out, patience = tmp_path / "run", 0.3
    while not out.exists():
        killed(small, out, after=patience)
        patience *= 1.5
    assert tidy(out)  # of one that was killed between its last two acts
    same(whole, out)
    left_alone(tmp_path, "run")


def test_two_processes_on_one_directory(whole, monkeypatch, tmp_path):
    """The second is refused while the first lives; the lock of one that was killed holds nothing."""
    out = tmp_path / "run"
    stopped(monkeypatch, out, 8, KeyboardInterrupt())
    other = multiprocessing.get_context("fork").Process(target=_hold, args=(out, tmp_path / "held"))
    other.start()
    while not (tmp_path / "held").exists():
        time.sleep(0.01)
    with pytest.raises(LockedError, match=f"process {other.pid} on .* is working in"):
        small(out)
    assert f"running, process {other.pid}" in lines(out)[0]
    other.kill()
    other.join()
    assert f"stopped, process {other.pid}" in lines(out)[0]
    small(out)
    same(whole, out)


def _hold(out, sign):
    with held(place(out)):
        sign.touch()
        time.sleep(600)


def test_status_tells_what_is_done_what_stopped_it_and_how_long_the_rest_takes(monkeypatch, tmp_path):
    out = tmp_path / "run"
    with pytest.raises(FileNotFoundError, match="holds no run"):
        lines(out)
    stopped(monkeypatch, out, 30, OSError(errno.EIO, "Input/output error"))
    said = "\n".join(lines(out))
    assert "stopped by OSError: [Errno 5] Input/output error" in said
    assert "ladder-1: 1 of 2 rungs drawn" in said
    assert "of the next (last: " in said
    assert "time left for what is begun: about" in said
    assert f"go on with: degrade resume {out}" in said
    small(out)
    assert "finished" in lines(out)[0]
    assert "2 rungs: " in lines(out)[1]


@pytest.mark.slow
@pytest.mark.parametrize(("workers", "times"), [(1, 20), (2, 4)])
def test_sigkill_at_random_moments(whole, tmp_path, workers, times):
    began = time.monotonic()
    small(tmp_path / "timed", workers=workers)
    took, moments = time.monotonic() - began, random.Random(workers)
    for number in range(times):
        out = tmp_path / f"run-{number}"
        killed(_small, out, workers, after=moments.uniform(0, took))
        if not out.exists():
            small(out, workers=workers)
        same(whole, out)
        left_alone(tmp_path, "timed", *(f"run-{n}" for n in range(number + 1)))


def _small(out, workers):
    small(out, workers=workers)
