"""Train the modular organism: `python -m studies.organisms.modular.train --out DIR`.

Full batches of half of all pairs and strong weight decay, after Nanda et al. 2023 (arXiv 2301.05217).
"""

from __future__ import annotations

from typing import Any

import torch
from torch.nn.functional import cross_entropy

from studies.organisms.mixture.train import Recipe
from studies.organisms.modular import modular
from studies.organisms.training import command

ROWS = 6384  # all of them
RECIPE = Recipe(layers=1, width=64, hidden=128, steps=650, rate=6e-3, batch=ROWS, decay=2.0, warmup=10)


@torch.no_grad()
def measured(model: Any) -> dict[str, float]:
    """Loss and accuracy on 2,000 pairs that are not trained on, in nats."""
    tokens = modular.corpus.heldout(2000, seed=1).tokens
    scores, answer = model(tokens[:, :3]).logits[:, -1], tokens[:, 3]
    right = (scores.argmax(-1) == answer).float().mean()
    return {"held-out loss": cross_entropy(scores, answer).item(), "held-out accuracy": right.item()}


if __name__ == "__main__":
    command(modular, RECIPE, measured)
