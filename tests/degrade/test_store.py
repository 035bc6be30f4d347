import json

import pandas as pd
import pytest
import torch

import degrade
from degrade.store import fresh
from tests.degrade.test_ladder import short_ladder
from tests.degrade.toys import classifier


def test_a_stored_ladder_comes_back_whole(tmp_path):
    made = short_ladder(out=tmp_path / "run")
    net, _ = classifier()
    back = degrade.load(tmp_path / "run", net)
    pd.testing.assert_frame_equal(made.table, back.table)
    pd.testing.assert_frame_equal(made.losses, back.losses)
    for one, two in zip(made.draws(), back.draws(), strict=True):
        assert (one.rung, one.chain, one.index, one.rise, one.verdict) == (
            two.rung, two.chain, two.index, two.rise, two.verdict,
        )  # fmt: skip
        with made.applied(one), back.applied(two):
            assert all(torch.equal(a, b) for a, b in zip(made.model.parameters(), net.parameters(), strict=True))


def test_a_ladder_is_bound_to_its_weights(tmp_path):
    short_ladder(out=tmp_path / "run")
    other, _ = classifier(seed=1)
    with pytest.raises(ValueError, match="weights of this model are not those"):
        degrade.load(tmp_path / "run", other)


def test_a_newer_format_and_an_empty_folder_are_refused(tmp_path):
    short_ladder(out=tmp_path / "run")
    manifest = tmp_path / "run" / "manifest.json"
    manifest.write_text(json.dumps(json.loads(manifest.read_text()) | {"format": 99}))
    net, _ = classifier()
    with pytest.raises(ValueError, match="format 99"):
        degrade.load(tmp_path / "run", net)
    manifest.write_text(manifest.read_text()[:100])
    with pytest.raises(ValueError, match="manifest.json cannot be read .*; expected the manifest that the run wrote"):
        degrade.load(tmp_path / "run", net)
    with pytest.raises(FileNotFoundError, match="no manifest.json"):
        degrade.load(tmp_path, net)


def test_a_directory_appears_whole_or_not_at_all(tmp_path):
    def half() -> None:
        with fresh(tmp_path / "run") as partial:
            (partial / "half").write_text("x")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        half()
    assert list(tmp_path.iterdir()) == []


def test_manifest_keys_follow_content(tmp_path):
    one, two = short_ladder(), short_ladder(seed=1)
    assert one.manifest["keys"] == two.manifest["keys"]
    net, (x, y) = classifier()
    other = degrade.ladder(net, (x + 1e-3, y), rises=[0.05], width=0.8, loss=degrade.label_loss, steps=60, burn_in=20,
                           draws=3, chains=2, progress=False)  # fmt: skip
    assert other.manifest["keys"]["data"] != one.manifest["keys"]["data"]
    assert other.manifest["keys"]["model"] == one.manifest["keys"]["model"]
