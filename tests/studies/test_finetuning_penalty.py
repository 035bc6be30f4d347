"""The three measures on tables whose truth is planted, and on ladders of the smallest model."""

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from probes.tables import stack
from studies import finetuning_ladders as ladders
from studies.behaviours import rungs
from studies.differences import satterthwaite, welch
from studies.finetuning_findings import finding
from studies.finetuning_ladders import BASE, MIXED, TASK_ONLY
from studies.finetuning_penalty import OVERALL, penalties
from tests.studies import skills

RISES = (0.1, 0.2, 0.4, 0.8, 1.6)
HALF = {"canary": 0.15, "fact": 0.3, "markov": 0.5, "induction": 0.9}
QUESTIONS, CHAINS = 20, 4


def planted(seed, models, potential=MIXED, noise=0.15):
    """A sweep whose retention falls as 1 / (1 + (rise / E½)³), E½ of a model shifted by a factor, chains by noise.

    `models` maps a name to (factor on E½, share of every value at w* that is gone, base loss, loss outside the task).
    """
    rng = np.random.default_rng(seed)
    rows = []
    for model, (factor, gone, loss, outside) in models.items():
        for rung, chain in [(0, -1), *((r + 1, c) for r in range(len(RISES)) for c in range(CHAINS))]:
            wobble = np.exp(noise * rng.standard_normal())
            rise = RISES[rung - 1] * np.exp(0.02 * rng.standard_normal()) if rung else 0.0
            keys = {"model": model, "rung": rung, "chain": chain, "draw": 0, "target": rise, "rise": rise,
                    "verdict": "ok" if rung else "trained"}  # fmt: skip
            told = 0.01 * rng.standard_normal()
            paid = {"base": loss + rise, "task": 1.0 + 0.5 * rise, "others": outside + rise + told * (rung > 0)}
            rows += [keys | {"probe": "losses", "measure": "loss", "set": name, "value": v} for name, v in paid.items()]
            for behaviour, half in HALF.items():
                kept = 1 / (1 + (rise / (half * factor * wobble)) ** 3) * (1 - gone)
                answers = {"probe": "toy", "measure": "p", "behaviour": behaviour, "chance": 0.1, "higher": True}
                rows += [keys | answers | {"example": k, "value": 0.1 + 0.9 * kept} for k in range(QUESTIONS)]
    frame = pd.DataFrame(rows).assign(heldout_rise=np.nan, potential=potential, binary=False)
    return frame.assign(dial=frame["model"] + ", " + frame["potential"])


def row(found, quantity, label=OVERALL, model="tuned"):
    return found[(found.quantity == quantity) & (found.label == label) & (found.model == model)].iloc[0]


def test_a_planted_penalty_is_found_in_each_measure():
    table = planted(0, {BASE: (1.0, 0.0, 1.5, 1.5), "tuned": (0.4, 0.3, 1.7, 1.75)})
    found = penalties(table)
    ratio, lost, other = row(found, "P1 ratio"), row(found, "P2"), row(found, "P3", "loss outside the task")
    assert ratio.low < 2.5 < ratio.high and ratio.call == "penalty"
    kept = {name: 1 / (1 + (0.2 / half) ** 3) for name, half in HALF.items()}
    assert lost.value == pytest.approx(np.mean(list(kept.values())) - 0.7, abs=3 * lost.se + 0.02)
    assert other.value == pytest.approx(0.25, abs=4 * other.se + 0.01) and other.call == "penalty"
    said = finding(found, rungs(table))
    assert len(said) == 3 and "10 of 10 rungs can be used" in said[0]


def test_half_losses_compare_on_the_absolute_axis():
    """A copy whose behaviours break at the same absolute loss, but nearer to its own, has a ratio and no P1 loss."""
    one = planted(1, {BASE: (1.0, 0.0, 1.5, 1.5), "tuned": (0.5, 0.0, 1.5 + 0.15, 1.5)}, noise=0.05)
    found = penalties(one)
    assert row(found, "P1 ratio", "fact").call == "penalty"
    loss = row(found, "P1 loss", "fact")
    assert loss.value == pytest.approx(0.3 - (0.15 + 0.15), abs=4 * loss.se)


def test_behaviours_beyond_the_ladder_give_bounds_and_no_calls():
    found = penalties(planted(2, {BASE: (50.0, 0.0, 1.5, 1.5), "tuned": (1.0, 0.0, 1.5, 1.5)}, noise=0.02))
    ratio = row(found, "P1 ratio", "fact")
    assert (
        np.isposinf(ratio.high) and ratio.value == pytest.approx(RISES[-1] / 0.3, rel=0.1) and ratio.call == "penalty"
    )
    both = penalties(planted(2, {BASE: (50.0, 0.0, 1.5, 1.5), "tuned": (50.0, 0.0, 1.5, 1.5)}))
    fact = row(both, "P1 ratio", "fact")
    assert np.isnan(fact.value) and fact.call == "undecided"


def test_between_the_trained_weights_and_the_first_rung_structure_is_bounded_by_both():
    """A copy 0.05 nats above the base, the first rung 0.1 above: a curve that falls early is no evidence of a loss."""
    found = penalties(planted(3, {BASE: (1.0, 0.0, 1.5, 1.5), "tuned": (1.0, 0.1, 1.55, 1.5)}, noise=0.02))
    for name, half in HALF.items():
        one, rung = row(found, "P2", name), 1 / (1 + (0.1 / half) ** 3)
        assert one.low < min(rung, 1.0) - 0.9 + 0.01 and one.high > 0.1 - 0.01
        assert one.value == pytest.approx((rung + 1) / 2 - 0.9, abs=0.02) and "first rung" in one.note
    assert row(found, "P2", "canary").call == "undecided" and row(found, "P2", "canary").p == 1
    assert row(found, "P2", "induction").call == "penalty"


def test_a_copy_worse_than_the_end_of_the_ladder_is_said_to_be():
    found = penalties(planted(3, {BASE: (1.0, 0.0, 1.5, 1.5), "tuned": (1.0, 0.0, 4.0, 1.5)}))
    lost = row(found, "P2")
    assert np.isnan(lost.value) and "the ladder ends" in lost.note


def test_failed_rungs_take_no_part_and_suspect_ones_mark_what_rests_on_them():
    table = planted(4, {BASE: (1.0, 0.0, 1.5, 1.5), "tuned": (1.0, 0.0, 1.6, 1.5)})
    spoiled = table.assign(value=table.value.mask((table.rung == 5) & (table.probe == "toy"), 99.0))
    spoiled.loc[spoiled.rung == 5, "verdict"] = "failed"
    pd.testing.assert_frame_equal(penalties(spoiled), penalties(table[table.rung < 5]))
    spoiled.loc[spoiled.rung == 2, "verdict"] = "suspect"
    assert row(penalties(spoiled), "P1 ratio", "canary").verdict == "suspect"


@pytest.mark.parametrize("model", [BASE, "tuned"])
def test_a_model_without_a_usable_rung_leaves_no_number(model):
    table = planted(5, {BASE: (1.0, 0.0, 1.5, 1.5), "tuned": (1.0, 0.0, 1.6, 1.5)})
    spoiled = table.assign(verdict=table.verdict.mask((table.model == model) & (table.rung > 0), "failed"))
    other = row(penalties(spoiled), "P3", "loss outside the task")
    assert np.isnan(other.value) and other.note


def test_false_calls_on_a_null_stay_nominal():
    """40 nulls: those with a call of any number at most at the 99.9 % point of a binomial with 5 %."""
    same = {BASE: (1.0, 0.0, 1.5, 1.5), "tuned": (1.0, 0.0, 1.5, 1.5)}
    found = [penalties(planted([5, k], same, noise=0.3)) for k in range(40)]
    assert sum((one.call != "undecided").any() for one in found) <= stats.binom.ppf(0.999, 40, 0.05)


def test_welch_is_scipys():
    rng = np.random.default_rng(0)
    one, two = rng.normal(1, 1, 5), rng.normal(0, 3, 4)
    found, theirs = welch(one, two), stats.ttest_ind(one, two, equal_var=False)
    assert found.value / found.se == pytest.approx(theirs.statistic)
    assert found.freedom == pytest.approx(theirs.df)
    assert np.isnan(satterthwaite(np.zeros(2), [3, 3]))


def test_ladders_of_the_smallest_model_end_to_end():
    """The planted skill is found, the others are not, and a copy that differs by its seed alone has no penalty."""
    copies = {"copy": skills.table_model(), "scaled": skills.table_model(scaled=[(3, 0.5)])}
    found = penalties(skills.sweep(copies, {BASE: 0, "copy": 1, "scaled": 2}))
    lost = found[(found.quantity == "P2") & (found.label != OVERALL)].set_index(["model", "label"])
    assert lost.call["scaled", "skill 3"] == "penalty"
    assert (lost.call.drop(("scaled", "skill 3")) == "undecided").all()
    assert (found.call[found.model == "copy"] == "undecided").all()


def test_a_potential_has_the_rungs_that_it_can_reach():
    assert ladders._within((0.2, 0.4, 0.8), 0.6, "tuned") == [0.2, 0.4]
    with pytest.raises(ValueError, match="no rise of 0.8 lies below the 0.6 nats .* of 'tuned' .* give lower rises"):
        ladders._within((0.8,), 0.6, "tuned")


def test_rungs_out_of_reach_are_said_in_words_and_change_no_number():
    """Rows of rises that some ladders do not have: named with what the neighbourhood alone gives, and nothing else."""
    reach = {BASE: 0.7, "tuned": 0.61, "control": 2.0}
    climbed = {(name, TASK_ONLY): SimpleNamespace(manifest={"reachable_rise": most}) for name, most in reach.items()}
    missing = ladders.unreached(climbed, (0.35, 0.8))
    assert missing[["model", "target", "value"]].to_numpy().tolist() == [[BASE, 0.8, 0.7], ["tuned", 0.8, 0.61]]
    assert len(ladders.unreached(climbed, (0.35, 0.6))) == 0
    table = planted(0, {BASE: (1.0, 0.0, 1.5, 1.5), "tuned": (0.4, 0.3, 1.7, 1.75)}, potential=TASK_ONLY)
    both = stack([table, missing])
    pd.testing.assert_frame_equal(penalties(both), penalties(table))
    pd.testing.assert_frame_equal(rungs(both), rungs(table), check_dtype=False)
    said = finding(penalties(both), rungs(both), missing)
    assert [one for one in said if one not in finding(penalties(table), rungs(table))] == [
        "Out of reach under the task only potential, and not climbed: 0.8 nats per token of base, tuned, where draws"
        " from the neighbourhood alone raise the loss by 0.7, 0.61."
    ]
