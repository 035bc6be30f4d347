"""Train the retrieval organism: `python -m studies.organisms.retrieval.train --out DIR`."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from studies.organisms.language import SPECIAL, Language
from studies.organisms.mixture.kinds import Repeat
from studies.organisms.mixture.references import gap, predictions
from studies.organisms.mixture.train import Recipe
from studies.organisms.retrieval import retrieval
from studies.organisms.retrieval.corpus import LENGTH, VOCABULARY
from studies.organisms.training import Before, command

RECIPE = Recipe(layers=4, width=64, hidden=96, steps=450, rate=4e-3, batch=64, decay=0.1, warmup=50)


@torch.no_grad()
def measured(model: Any) -> dict[str, float]:
    """Held-out excess over the Bayes predictor (nats per answer), and accuracy on the first question."""
    corpus = retrieval.corpus
    asked = corpus.queries(500, seed=1)
    right = predictions(model, asked.tokens)[torch.arange(500), asked.position] == asked.answer
    return {
        "excess": gap(model, corpus.heldout(500, seed=1), retrieval.scored)[0],
        "accuracy": float(right.float().mean()),
    }


def segments(n: int = 20_000, seed: int = 0) -> Before:
    """Repeated segments of the corpus's own words, on which induction heads form: without them nothing is bound."""
    words = np.arange(len(SPECIAL), len(VOCABULARY))
    law = Repeat(words, 8, 16, LENGTH)
    return Before(Language("repeat", VOCABULARY, law, n, seed).training().tokens, steps=250)


if __name__ == "__main__":
    command(retrieval, RECIPE, measured, segments())
