"""Laws that spoil weights, their strengths at equal loss, and the order that each dial follows."""

from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from scipy import stats

from degrade.noise import Key
from degrade.parameters import select
from studies import dials_checkpoints, dials_matching
from studies.behaviours import rungs
from studies.dials_agreement import NATURAL, agreements, generality
from studies.dials_findings import finding
from studies.dials_laws import LAWS, Law, early_layers, pruned, quantised
from studies.finetuning_ladders import BASE, MIXED
from tests.degrade.test_ladder import short_ladder
from tests.probes import toys
from tests.studies import skills

KEY = Key(0, "control", 0, 1)
LAW = {law.name: law for law in LAWS}
RISES = (0.1, 0.2, 0.4, 0.8, 1.6)
ORDER = {"canary x4": (4.0, 0), "canary x64": (64.0, 0), "facts rare": (20.0, 1), "facts frequent": (900.0, 1),
         "tail middle": (200.0, 1), "markov": (np.nan, 2), "induction": (np.nan, 3)}  # fmt: skip


@pytest.fixture(scope="module")
def selection():
    return select(toys.llama())


@pytest.mark.parametrize("law", LAWS, ids=lambda law: law.name)
def test_at_no_strength_nothing_moves_and_draws_are_a_function_of_the_key(law, selection):
    center = selection.copy()
    assert all(torch.equal(a, b) for a, b in zip(law.spoil(selection, center, 0.0, KEY, 0), center, strict=True))
    one, two, other = (law.spoil(selection, center, 0.5, key, 0) for key in (KEY, KEY, Key(0, "control", 0, 2)))
    assert all(torch.equal(a, b) for a, b in zip(one, two, strict=True))
    assert law.random != all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


def test_rounding_errors_are_uniform_within_half_a_step():
    center = [torch.randn(20_000, generator=torch.Generator().manual_seed(0))]
    step = 0.7 * float(center[0].double().square().mean().sqrt())
    moved = (quantised(None, center, 0.7, KEY, 0)[0] - center[0]) / step
    assert moved.abs().max() <= 0.5 + 1e-4
    assert abs(float(moved.var()) - 1 / 12) < 4 * (1 / 180 / len(moved)) ** 0.5  # var of (u − ½)² is 1/180


def test_pruning_sets_the_share_to_zero_the_smallest_first():
    center = [torch.tensor([0.1, -2.0, 0.3, 4.0]), torch.tensor([10.0, -20.0, 30.0, 1.0])]
    gone = torch.cat(pruned(None, center, 0.5, KEY, 0)) == 0
    sizes = torch.cat([w.abs() / w.square().mean().sqrt() for w in center])
    assert gone.sum() == 4 and sizes[gone].max() <= sizes[~gone].min()
    assert all((w == 0).all() for w in pruned(None, center, 1.0, KEY, 0))


def test_only_the_first_half_of_the_layers_goes_back(selection):
    center = selection.copy()
    moved = LAW["early layers to init"].spoil(selection, center, 1.0, KEY, 0)
    early = early_layers(selection.names)
    assert early and all("layers.0." in name for name in early)
    for name, a, b in zip(selection.names, moved, center, strict=True):
        assert torch.equal(a, b) == (name not in early)
        assert not (name in early and "layernorm" in name) or (a == 1).all()
    assert early_layers(("h.0.w", "h.1.w", "h.2.w")) == {"h.0.w"} and early_layers(("w",)) == set()


@pytest.mark.parametrize("name", ["per-tensor noise", "quantisation", "pruning"])
def test_every_dial_meets_the_rise_of_its_rung(name):
    ladder = short_ladder(steps=400, burn_in=100, chains=4)
    dial = dials_matching.climb(ladder, LAW[name], chains=4, draws=1, seed=0)
    before = [p.clone() for p in ladder.model.parameters()]
    for row in ladder.table[ladder.table.rung > 0].itertuples():
        mine = [draw for draw in dial.draws() if draw.rung == row.rung]
        assert len(mine) == (4 if LAW[name].random else 1)
        if LAW[name].random:  # pruning a handful of weights moves the loss by steps
            assert np.mean([draw.rise for draw in mine]) == pytest.approx(row.evaluation_rise, rel=0.05)
        else:
            assert mine[0].verdict in ("ok", "suspect")
    assert all(torch.equal(a, b) for a, b in zip(before, ladder.model.parameters(), strict=True))


def test_a_rise_out_of_reach_is_listed():
    ladder = short_ladder(steps=400, burn_in=100, chains=2)
    still = Law("still", lambda selection, center, strength, key, index: center, 1.0, True, "nothing")
    dial = dials_matching.climb(ladder, still, chains=2, draws=1, seed=0)
    assert not dial.kept and len(dial.missed) == (ladder.table[1:].verdict != "failed").sum()
    assert "not reached at strength 1" in dial.missed[0]


def test_a_ladder_from_disk_gets_its_evaluation_set_back(tmp_path):
    import degrade
    from tests.degrade.toys import classifier

    ladder = short_ladder(steps=400, burn_in=100, chains=2)
    loaded = degrade.load(ladder.save(tmp_path / "ladder"), ladder.model)
    again = dials_matching.with_evaluation(loaded, classifier()[1], degrade.label_loss)
    draw = next(ladder.draws())
    with ladder.applied(draw):
        assert dials_matching.rise_of(again) == pytest.approx(dials_matching.rise_of(ladder), abs=1e-6)
    with pytest.raises(ValueError, match="no evaluation set"):
        dials_matching.rise_of(loaded)


def test_checkpoints_come_in_the_order_of_training(tmp_path):
    for name in ("step-1000", "step-200", "step-30"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text("{}")
    assert [path.name for path in dials_checkpoints.found(None, tmp_path)] == ["step-30", "step-200", "step-1000"]
    with pytest.raises(FileNotFoundError, match="holds no checkpoint"):
        dials_checkpoints.found(None, tmp_path / "step-30")


def test_checkpoints_beyond_the_ladder_are_listed_and_the_latest_comes_first(monkeypatch):
    """Weights scaled towards 0: the earlier the checkpoint, the less is left."""
    ladder = short_ladder(steps=400, burn_in=100, chains=2)
    left = {"step-1": 0.0, "step-2": 0.5, "step-3": 0.9}
    monkeypatch.setattr(
        dials_checkpoints, "_weights", lambda folder, own: [left[folder.name] * w for w in own.selection.copy()]
    )
    top = ladder.table.loc[ladder.table["verdict"] != "failed", "evaluation_rise"].max()
    dial = dials_checkpoints.climb(ladder, [Path(name) for name in left])
    rises = [draw.rise for draw in dial.draws()]
    assert rises == sorted(rises) and [draw.rung for draw in dial.draws()] == list(range(1, len(rises) + 1))
    assert len(rises) + len(dial.missed) == 3 and all(0 < rise <= 1.1 * top for rise in rises)
    assert all("beyond the ladder" in text for text in dial.missed)


def planted(seed, halves, noise=0.2, chains=4):
    """A sweep of dials in which behaviours break at given E½; `halves` maps a dial to E½ by behaviour."""
    rng, rows = np.random.default_rng(seed), []
    for dial, half in halves.items():
        for rung, chain in [(0, -1), *((r + 1, c) for r in range(len(RISES)) for c in range(chains))]:
            rise = RISES[rung - 1] if rung else 0.0
            keys = {"dial": dial, "rung": rung, "chain": chain, "draw": 0, "target": rise, "rise": rise,
                    "verdict": "ok" if rung else "trained"}  # fmt: skip
            for behaviour, (often, _) in ORDER.items():
                kept = 1 / (1 + (rise / (half[behaviour] * np.exp(noise * rng.standard_normal()))) ** 3)
                said = {"probe": "toy", "measure": "p", "behaviour": behaviour, "chance": 0.1, "higher": True}
                rows += [keys | said | {"example": k, "value": 0.1 + 0.9 * kept, "frequency": often} for k in range(4)]
    return pd.DataFrame(rows).assign(heldout_rise=np.nan, binary=False)


def by_frequency():
    return {name: 0.15 * 1.4**place for place, name in enumerate(ORDER)}


def against_it():
    return dict(zip(ORDER, reversed(by_frequency().values()), strict=True))


def test_a_planted_order_is_found_and_told_from_its_reverse():
    table = planted(0, {NATURAL: by_frequency(), "backwards": against_it()}, noise=0.05)
    found = agreements(table)
    general = found[found.against == "generality"].set_index("dial")
    assert general.value[NATURAL] > 0.8 and general.value["backwards"] < -0.8
    assert (found.set_index("dial").q["backwards"] <= 0.05).all()
    assert (general.low[NATURAL], general.behaviours[NATURAL]) == (pytest.approx(general.value[NATURAL], abs=0.3), 7)
    said = finding(found, pd.concat([rungs(table), pd.DataFrame({"dial": ["pruning"], "rung": [0]})]))
    assert len(said) == 5 and "5 of 5 rungs can be used" in said[0]
    assert any("Without a rung or a ranking: pruning" in sentence for sentence in said)


def test_correlations_are_kendalls_chain_by_chain():
    table = planted(1, {NATURAL: by_frequency()}, noise=0.0, chains=2)
    often = {name: frequency for name, (frequency, _) in ORDER.items() if np.isfinite(frequency)}
    exact = stats.kendalltau([by_frequency()[name] for name in often], list(often.values())).statistic
    row = agreements(table).set_index("against").loc["frequency"]
    assert row.value == pytest.approx(exact) and row.behaviours == 5 and row.chains == 2


def test_a_dial_with_one_draw_a_rung_has_a_value_and_no_interval():
    halves = {NATURAL: by_frequency(), "pruning": by_frequency()}
    table = planted(2, halves)
    found = agreements(table[(table.dial == NATURAL) | (table.chain < 1)]).set_index(["dial", "against"])
    assert np.isnan(found.low["pruning", "generality"]) and np.isnan(found.q["pruning", "generality"])
    assert np.isfinite(found.value["pruning", "generality"])


def test_false_calls_on_equal_dials_stay_nominal():
    """40 nulls of five equal dials: those with a call at most at the 99.9 % point of a binomial with 5 %."""
    halves = {name: by_frequency() for name in (NATURAL, "a", "b", "c", "d")}
    wrong = sum((agreements(planted([3, k], halves, noise=0.5)).q <= 0.05).any() for k in range(40))
    assert wrong <= stats.binom.ppf(0.999, 40, 0.05)


def test_classes_are_of_names():
    assert [generality(name) for name in ("canary x1", "facts rare", "n-gram 2", "addition held out")] == [0, 1, 2, 3]
    assert np.isnan(generality("addition seen")) and np.isnan(generality("poetry"))


@dataclass(frozen=True)
class ScaledDown:
    """The draws of a ladder, in each of them the weights of the two most frequent skills scaled down by hand."""

    ladder: object
    kept: list

    @property
    def model(self):
        return self.ladder.model

    def draws(self):
        return iter(self.kept)

    @contextmanager
    def applied(self, draw):
        with self.ladder.applied(draw) as model:
            with torch.no_grad():
                model.weight[: 2 * skills.INPUTS] *= 0.1
            yield model


def test_behaviours_scaled_down_by_hand_change_the_order_and_are_found():
    ladders = skills.climbed({"copy": skills.table_model()}, {BASE: 100, "copy": 101})
    ladders["copy", MIXED] = ScaledDown(ladders["copy", MIXED], ladders["copy", MIXED].kept)
    assert skills.calls_of_dials(skills.asked(ladders)).any()
