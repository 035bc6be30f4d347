"""What a behaviour is worth: how much lower a loss is for it than if its tokens were guessed."""

from typing import Any

import numpy as np
import pandas as pd
from scipy import stats

from probes.predictions import predictions
from studies.statistics import adjusted

COLUMNS = ["data", "behaviour", "tokens", "value", "se", "p"]


def contributions(model: Any, corpus: Any, samples: dict[str, Any]) -> pd.DataFrame:
    """A row per sample and behaviour: C = (1/N) Σ_t [−log guess_t − (−log p_model(t))] over the tokens it is asked at.

    N counts all predicted tokens of the sample, so that C is the rise of that sample's mean loss if the behaviour fell
    to guessing and all else stayed: its contribution to that loss. A behaviour that a sample never asks for has none.

    Args:
        model: The trained model.
        corpus: With `parts(sample)`: which behaviour each token asks for, and the probability of guessing it.
        samples: Samples by name, say "test" (held out) and "training".

    Returns:
        data, behaviour, tokens (share of all predicted tokens), value and se (nats per token, over sequences), p (two-
        sided, of no contribution). Empty if the corpus does not say what its tokens ask for.
    """
    if not hasattr(corpus, "parts"):
        return pd.DataFrame(columns=COLUMNS)
    return pd.concat([_of(model, corpus, sample).assign(data=name) for name, sample in samples.items()])[COLUMNS]


def _of(model: Any, corpus: Any, sample: Any) -> pd.DataFrame:
    names, chance = corpus.parts(sample)
    saved = -np.log(chance) - predictions(model, sample.tokens).nats.double().numpy()
    rows = []
    for behaviour in sorted(set(names.ravel()) - {""}):
        asked = names == behaviour
        each = np.where(asked, saved, 0.0).sum(1) / names.shape[1]
        se = each.std(ddof=1) / np.sqrt(len(each))
        p = 2 * stats.norm.sf(abs(each.mean()) / se) if se > 0 else np.nan
        rows.append({"behaviour": behaviour, "tokens": asked.mean(), "value": each.mean(), "se": se, "p": p})
    return pd.DataFrame(rows, columns=COLUMNS[1:])


def worth(found: pd.DataFrame, worths: pd.DataFrame, level: float = 0.05) -> pd.DataFrame:
    """`found`, a row a behaviour, with what it contributes to the test loss, and whether that is above 0.

    Args:
        found: Any table with a column `behaviour`.
        worths: What `contributions` returned, "test" among its data.
        level: False discovery rate of `improves`, over the behaviours of the test data.

    Returns:
        found with test and test_se (nats per token; 0 for what the test data never ask for, nan where nothing is
        known), training (the same of the training loss), tokens (share of the training tokens), improves.
    """
    test, training = (worths[worths["data"] == name].set_index("behaviour") for name in ("test", "training"))
    known = found["behaviour"].isin([*test.index, *training.index]) | (len(worths) > 0)
    out = found.assign(tokens=found["behaviour"].map(training["tokens"].astype(float)))
    q = pd.Series(adjusted(test["p"].astype(float)), index=test.index)
    for name, values in (("test", test["value"]), ("test_se", test["se"]), ("training", training["value"])):
        out[name] = found["behaviour"].map(values.astype(float)).fillna(0.0).where(known)
    improves = (found["behaviour"].map(q) <= level) & (out["test"] > 0)
    return out.assign(improves=improves.astype("boolean").where(known))
