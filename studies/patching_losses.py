"""What patched runs and circuits pay for the answers, beside what the model itself pays, from the rows of a sweep.

A *reconstruction* is a run that would give the right answers if some statement about the model were true:

- "nothing moved after l blocks": the last token's state of another prompt, put in after l blocks, changes nothing: what
  follows reads request and context again, and repairs the state.
- "request moved after l blocks": it carries the request and nothing of the context: the answer is that of the other
  prompt's request in this prompt's context.
- "answer moved after l blocks": it carries the answer: what follows only post-processes.
- "k edges (kind)": the edges of a circuit do it by themselves.

Each is compared with the loss of the unpatched model on the same examples: for the first that of the target prompt, for
the third that of the source prompt, for the second the mean of both prompts of the pair, since either takes its
question or its context from one of them; for circuits that of the clean prompt.
"""

from collections.abc import Callable, Iterable

import numpy as np
import pandas as pd

from studies.behaviours import swept

PLACE = ["rung", "target", "rise", "heldout_rise", "verdict", "chain", "draw"]
NATS = ["own", "patched", "guess"]
FAMILIES = {"R2(C2)": "nothing moved", "R1(C2)": "request moved", "R1(C1)": "answer moved"}
CIRCUITS = "circuits"


def losses(table: pd.DataFrame) -> pd.DataFrame:
    """A row per draw, reconstruction and example; failed rungs are left out.

    The states before the first block and behind the last are left out too: there nothing and the answer are moved by
    construction.

    Args:
        table: Tidy table of a sweep of request-patching, circuit-loss, or both.

    Returns:
        rung, target, rise, heldout_rise (nats per unit of the ladder's loss), verdict, chain, draw, family, label,
        example, own (loss of the unpatched model), patched, guess (loss of a uniform guess; nan if unknown), the last
        three in nats per answer.

    Raises:
        ValueError: if the table holds neither probe.
    """
    require_patched(table["probe"].unique())
    rows = table[swept(table) & ~table["verdict"].isin(["failed", "prior"])]
    parts = [read(rows[rows["probe"] == name]) for name, read in READERS.items() if (rows["probe"] == name).any()]
    columns = [*PLACE, "family", "label", "example", *NATS]
    return pd.concat(parts, ignore_index=True)[columns].astype({"rung": int, "chain": int, "draw": int, "example": int})


def require_patched(probes: Iterable[str]) -> None:
    """Refuse probes none of which has a patched loss.

    Raises:
        ValueError: naming those that have one.
    """
    if not set(probes) & set(READERS):
        raise ValueError(f"no probe has a patched loss to compare: ask for {' or '.join(READERS)}")


def _requests(rows: pd.DataFrame) -> pd.DataFrame:
    """Reconstructions of request patching, at every layer between the first block and the last."""
    unpatched = rows[rows["measure"] == "loss"].pivot_table(index=[*PLACE, "example"], columns="prompt", values="value")
    own = {
        "R2(C2)": unpatched["target"],
        "R1(C2)": (unpatched["source"] + unpatched["target"]) / 2,
        "R1(C1)": unpatched["source"],
    }
    parts = [_reading(rows, reading).merge(_named(own[reading], "own"), on=[*PLACE, "example"]) for reading in FAMILIES]
    found = pd.concat(parts, ignore_index=True)
    return found.merge(_guess(rows), on="example", how="left")


def _reading(rows: pd.DataFrame, reading: str) -> pd.DataFrame:
    """-log P of one reading in every patched run, in nats."""
    asked = rows[rows["measure"] == ("patched loss" if reading == "R1(C2)" else reading)]
    asked = asked[asked["layer"].isin(_between(asked["layer"]))]
    value = asked["value"].to_numpy(float)
    nats = value if reading == "R1(C2)" else -np.log(np.maximum(value, np.finfo(float).tiny))
    family = FAMILIES[reading]
    layers = asked["layer"].astype(int)
    label = layers.map(lambda layer: f"{family} after {layer} block{'s' if layer > 1 else ''}")
    return asked[[*PLACE, "example"]].assign(patched=nats, family=family, label=label)


def _between(layers: pd.Series) -> list[int]:
    """The layers between the embeddings and the last norm, where all were patched; else those that were."""
    known = sorted(layers.astype(int).unique().tolist())
    return known[1:-1] if known == list(range(len(known))) and len(known) > 2 else known


def _guess(rows: pd.DataFrame) -> pd.DataFrame:
    """Loss of a uniform guess for each example, from the chance level of "request moved"; nan without that."""
    told = rows[(rows["measure"] == "R1(C2)") & rows["chance"].notna()].drop_duplicates("example")
    return pd.DataFrame({"example": told["example"], "guess": -np.log(told["chance"].to_numpy(float))})


def _circuits(rows: pd.DataFrame) -> pd.DataFrame:
    """Circuits by themselves."""
    own = rows[rows["measure"] == "loss"].rename(columns={"value": "own", "chance": "guess"})
    paid = rows[rows["measure"] == "circuit loss"].rename(columns={"value": "patched"})
    label = paid["edges"].astype(int).astype(str) + " edges (" + paid["kind"].astype(str) + ")"
    named = paid[[*PLACE, "example", "patched"]].assign(family=CIRCUITS, label=label)
    return named.merge(own[[*PLACE, "example", "own", "guess"]], on=[*PLACE, "example"])


def _named(values: pd.Series, name: str) -> pd.DataFrame:
    return values.rename(name).reset_index()


READERS: dict[str, Callable[[pd.DataFrame], pd.DataFrame]] = {"request-patching": _requests, "circuit-loss": _circuits}
