"""A synthetic ladder with planted half-retention scales: what a sweep of three dials would have returned."""

from typing import NamedTuple

import numpy as np
import pandas as pd
import pytest

TARGETS = (0.04, 0.07, 0.12, 0.2, 0.35, 0.6, 1.0, 1.7)
CHAINS, DRAWS = 4, 8
MARKS = {"exact gap": 0.14, "larger model": 0.08, "n-gram 3": 0.9, "n-gram 2": 1.2, "n-gram 1": 1.9, "untrained": 3.7}
DTYPES = {
    "higher": "boolean",
    "binary": "boolean",
    "layer": "Int64",
    "position": "Int64",
    "example": "Int64",
}  # a sweep's
VERDICTS = {
    "natural": ["suspect", *["ok (heated only)"] * 6, "failed"],
    "isotropic": ["ok"] * 8,
    "no canaries": ["ok (heated only)"] * 8,
}


class Planted(NamedTuple):
    probe: str
    measure: str
    behaviour: str
    start: float
    chance: float
    higher: bool
    binary: bool
    natural: float  # E½ in nats per token
    isotropic: float


BEHAVIOURS = (
    Planted("recall", "recitation", "canary x1", 0.05, 1 / 31, True, False, 0.05, 0.2),
    *(
        Planted("recall", "recitation", f"canary x{2**k}", min(1.0, 0.4 + 0.2 * k), 1 / 31, True, False, half, iso)
        for k, half, iso in ((2, 0.02, 0.28), (3, 0.055, 0.5), (4, 0.08, 0.62), (5, 0.115, 0.7), (6, 0.15, 0.8))
    ),
    Planted("recall", "accuracy", "facts frequent", 1.0, 1 / 16, True, True, 2.6, 2.5),
    Planted("recall", "accuracy", "facts middle", 1.0, 1 / 16, True, True, 0.7, 2.4),
    Planted("recall", "accuracy", "facts rare", 0.98, 1 / 16, True, True, 0.5, 2.2),
    Planted("recall", "accuracy", "tail frequent", 0.9, 1 / 16, True, True, 0.4, 1.5),
    Planted("recall", "accuracy", "tail rare", 0.4, 1 / 16, True, True, 0.09, 0.9),
    Planted("recall", "accuracy", "retrieval", 1.0, 1 / 8, True, True, 0.29, 0.75),
    Planted("recall", "accuracy", "addition seen", 1.0, 1 / 31, True, True, 0.42, 0.3),
    Planted("recall", "accuracy", "addition held out", 0.97, 1 / 31, True, True, 0.35, 0.24),
    Planted("induction", "accuracy", "induction", 0.99, 1 / 31, True, False, 1.1, 1.3),
    Planted("kinds", "excess", "markov", 0.03, 0.85, False, False, 1.2, 1.4),
    Planted("kinds", "excess", "markov2", 0.2, 1.1, False, False, 0.9, 1.0),
)


def draws_of(dial, rng):
    """One row per draw: rung, chain, draw, target, rise, heldout_rise, verdict; w* first."""
    rung, chain, draw = (axis.ravel() for axis in np.indices((len(TARGETS), CHAINS, DRAWS)))
    target = np.array(TARGETS)[rung]
    rise = target * np.exp(0.02 * rng.standard_normal(len(rung)))
    frame = pd.DataFrame({"rung": rung + 1, "chain": chain, "draw": draw, "target": target, "rise": rise})
    frame["heldout_rise"], frame["verdict"] = 0.9 * frame["rise"], np.array(VERDICTS[dial])[rung]
    start = {"rung": 0, "chain": -1, "draw": -1, "target": 0.0, "rise": 0.0, "heldout_rise": 0.0, "verdict": "trained"}
    return pd.concat([pd.DataFrame([start]), frame], ignore_index=True).assign(dial=dial)


def rows_of(planted, draws, rng, examples):
    """Per-example rows of one behaviour on every draw, a chain effect on log E½, the same questions for all."""
    half = planted.isotropic if draws["dial"].iloc[0] == "isotropic" else planted.natural
    wobble = 0.1 * rng.standard_normal(CHAINS + 1)[draws["chain"]] + 0.03 * rng.standard_normal(len(draws))
    kept = 1 / (1 + (draws["rise"].to_numpy() / (half * np.exp(wobble))) ** 2.5)
    mean = np.repeat(planted.chance + kept * (planted.start - planted.chance), examples)
    question = np.tile(rng.permutation((np.arange(examples) + 0.5) / examples), len(draws))
    value = (question < mean) if planted.binary else mean + 0.2 * (question - 0.5)
    rows = draws.loc[draws.index.repeat(examples)].assign(value=value.astype(float), chance=planted.chance)
    names = {"probe": planted.probe, "measure": planted.measure, "behaviour": planted.behaviour}
    example = np.tile(np.arange(examples), len(draws))
    return rows.assign(**names, higher=planted.higher, binary=planted.binary, example=example)


def claim_rows(draws, rng):
    """The share of draws on which the claim holds falls from 1 to 0 around a rise of 0.5."""
    holds = rng.random(len(draws)) < 1 / (1 + (draws["rise"] / 0.5) ** 8)
    statement = "head 1.2 is the strongest induction head"
    return draws.assign(probe=f"claim: {statement}", measure="holds", statement=statement, value=holds.astype(float))


def patching_rows(draws, rng, pairs=6):
    """A block of sites that recovers the answer at two positions and fades with the rise."""
    few = draws[draws["draw"].isin([-1, 3, 7])]
    sites = [(site, layer) for site in ("resid_pre", "attn_out", "mlp_out") for layer in range(3)]
    grid = pd.MultiIndex.from_product([sites, range(32), range(pairs)], names=["site", "position", "example"])
    cells = grid.to_frame(index=False)
    cells["layer"], cells["site"] = cells["site"].str[1].astype(int), cells["site"].str[0]
    early = (cells["site"] == "resid_pre") & (cells["position"] == 11) & (cells["layer"] < 2)
    late = (cells["site"] != "mlp_out") & (cells["position"] == 28) & (cells["layer"] == 2)
    cells["effect"] = early * 1.0 + late * 0.8 - 0.3 * ((cells["site"] == "mlp_out") & (cells["position"] == 12))
    rows = few.merge(cells, how="cross").assign(probe="patching", measure="recovery")
    rows["value"] = rows.pop("effect") / (1 + (rows["rise"] / 0.3) ** 2) + 0.05 * rng.standard_normal(len(rows))
    return rows


def build(examples=40, seed=0, dials=("natural", "isotropic"), patching=True):
    """The tidy table of a study, marks included."""
    parts = []
    for place, dial in enumerate(dials):
        rng = np.random.default_rng(np.random.SeedSequence(entropy=seed, spawn_key=(place,)))
        draws = draws_of(dial, rng)
        parts += [rows_of(planted, draws, rng, examples) for planted in BEHAVIOURS]
        parts.append(claim_rows(draws, rng))
        if patching and dial == "natural":
            parts.append(patching_rows(draws, rng))
    parts.append(pd.DataFrame({"probe": "mark", "measure": list(MARKS), "value": list(MARKS.values())}))
    return pd.concat(parts, ignore_index=True).astype(
        DTYPES if patching else {"higher": "boolean", "binary": "boolean"}
    )


def build_ladder(seed=0):
    """What `ladder.table` holds: a row a rung, w* first."""
    rng, count = np.random.default_rng(seed), len(TARGETS)
    target, noise = np.array(TARGETS), rng.standard_normal((4, len(TARGETS)))
    verdict = VERDICTS["natural"]
    reasons = {"suspect": "weighted virial 1.09 ± 0.02 is outside 1 ± 0.05", "failed": "R-hat 1.31 is above 1.05"}
    rows = pd.DataFrame({"rung": np.arange(1, count + 1), "target": target, "rise": target * (1 + 0.01 * noise[0])})
    rows = rows.assign(rise_se=0.008 * target, heldout_rise=0.9 * target, heldout_rise_se=0.01 * target)
    rows = rows.assign(calibrated_rise=0.8 * target, nbeta=3e3 / target, llc=3e3, llc_se=40.0)
    rows = rows.assign(virial=1 + 0.004 * noise[1], virial_se=0.005, weighted_virial=1 + 0.01 * noise[2])
    rows.loc[0, "weighted_virial"] = 1.09
    rows = rows.assign(weighted_virial_se=0.015, rhat=1.01 + 0.005 * noise[3] ** 2, ess=np.geomspace(60, 400, count))
    rows.loc[count - 1, "rhat"] = 1.31
    rows = rows.assign(reach=target / 3.5, step_size=0.02, steps=400, restarts=0, verdict=verdict)
    rows["reason"] = [reasons.get(word, "") for word in verdict]
    start = {"rung": 0, "target": 0.0, "rise": 0.0, "verdict": "trained", "reason": ""}
    return pd.concat([pd.DataFrame([start]), rows], ignore_index=True)


def build_traces(seed=0, steps=400):
    """What `ladder.traces` holds: rise and virials at every tenth step of each rung and chain."""
    rng = np.random.default_rng(seed)
    rung, chain, step = (axis.ravel() for axis in np.indices((len(TARGETS), CHAINS, steps // 10)))
    target, before = np.array(TARGETS)[rung], np.array((0.0, *TARGETS[:-1]))[rung]
    rise = target - (target - before) * np.exp(-step * 10 / 40) + 0.06 * target * rng.standard_normal(len(step))
    kept = step >= steps // 20
    return pd.DataFrame({"rung": rung + 1, "chain": chain, "step": step * 10, "kept": kept, "rise": rise})


@pytest.fixture(scope="session")
def table():
    return build()


@pytest.fixture(scope="session")
def ladder_table():
    return build_ladder()


@pytest.fixture(scope="session")
def traces():
    return build_traces()


@pytest.fixture(scope="session")
def planted():
    return {row.behaviour: row for row in BEHAVIOURS}


@pytest.fixture(scope="session")
def make_table():
    return build
