"""A table of skills that are all alike: the smallest model that can be degraded, whose behaviours share one E½.

Its law p(w) ∝ exp(−nβ ΔL(w) − ½‖w − w*‖²/s²) is sampled by plain Metropolis steps in numpy, all chains at once, so
that forty ladders take a minute; everything after the draws is the study's own.
"""

from contextlib import contextmanager
from dataclasses import dataclass, field

import numpy as np
import pandas as pd
import torch
from torch import nn

from degrade import label_loss
from probes.probe import Measure
from probes.sweep import sweep
from studies.finetuning import swept as finetuned
from studies.finetuning_ladders import BASE, MIXED, Losses

SKILLS, INPUTS, CLASSES = 4, 24, 5
NBETAS = (120.0, 48.0, 19.0, 8.0, 3.0, 1.0)
SCALE, STEP, STEPS, THIN, DRAWS = 8.0, 2.0, 100, 20, 4


class Right:
    """Probability of the right class on each skill's inputs."""

    name = "right"
    measures = {"probability": Measure(chance=1 / CLASSES, higher=True, binary=False, unit="probability")}

    def __call__(self, model):
        with torch.no_grad():
            right = model(torch.arange(SKILLS * INPUTS)).softmax(-1)[:, 0]
        skill = np.repeat([f"skill {k}" for k in range(SKILLS)], INPUTS)
        keys = {"behaviour": skill, "example": np.arange(SKILLS * INPUTS)}
        return pd.DataFrame({"measure": "probability", "value": right.double().numpy(), **keys})


def table_model(scaled=1.0, margin=8.0):
    """Logits by input, class 0 right by `margin` nats; the weights of skill 0 scaled down by hand."""
    weights = torch.zeros(SKILLS * INPUTS, CLASSES)
    weights[:, 0] = margin
    weights[:INPUTS] *= scaled
    return nn.Embedding.from_pretrained(weights)


@dataclass
class Draw:
    rung: int
    chain: int
    index: int
    target: float
    rise: float
    weights: np.ndarray = field(repr=False)
    verdict: str = "ok"

    @property
    def heldout_rise(self):
        return self.rise


@dataclass
class Ladder:
    model: nn.Embedding
    kept: list[Draw]

    def draws(self):
        return iter(self.kept)

    @contextmanager
    def applied(self, draw):
        own = self.model.weight.data.clone()
        self.model.weight.data = torch.from_numpy(draw.weights).float()
        yield
        self.model.weight.data = own


def rises(weights, truth):
    """ΔL of each chain's weights, (chains, inputs): cross-entropy with the trained model's own law, over its own."""
    own = truth - logsumexp(truth)
    return ((own - weights + logsumexp(weights)) * np.exp(own)).sum(-1)


def logsumexp(logits):
    return np.log(np.exp(logits).sum(-1, keepdims=True))  # logits stay far below 700


def examples(skills):
    """All inputs of some skills, with the class that is right."""
    inputs = torch.cat([torch.arange(skill * INPUTS, (skill + 1) * INPUTS) for skill in skills])
    return inputs, torch.zeros_like(inputs)


SETS = {"base": examples(range(SKILLS)), "task": examples([0, 1]), "others": examples([2, 3])}


def climb(seed, scaled=1.0, chains=8):
    """Every chain heated from w* through all temperatures; inputs do not interact: each has a Metropolis test."""
    model, rng = table_model(scaled), np.random.default_rng(seed)
    truth = model.weight.double().numpy()
    state, kept = np.tile(truth, (chains, 1, 1)), []
    for rung, nbeta in enumerate(NBETAS, start=1):
        now = energy(state, truth, nbeta)
        for step in range(1, STEPS + DRAWS * THIN + 1):
            moved = state + STEP * rng.standard_normal(state.shape)
            then = energy(moved, truth, nbeta)
            accepted = np.log(rng.random(now.shape)) < now - then
            state, now = np.where(accepted[..., None], moved, state), np.where(accepted, then, now)
            if step > STEPS and (step - STEPS) % THIN == 0:
                found = rises(state, truth).mean(-1)
                kept += [Draw(rung, c, (step - STEPS) // THIN, np.nan, found[c], state[c]) for c in range(chains)]
    return Ladder(model, kept)


def energy(weights, truth, nbeta):
    return nbeta * rises(weights, truth) / len(truth) + ((weights - truth) ** 2).sum(-1) / (2 * SCALE**2)


def pair(seed):
    """The finetuning study's sweep of two copies that differ by their seeds alone."""
    ladders = {(BASE, MIXED): climb(2 * seed), ("copy", MIXED): climb(2 * seed + 1)}
    return finetuned(ladders, [Right(), Losses(SETS, label_loss)], DRAWS, 1, False)


def swept(seed, scaled=1.0, chains=8):
    """The sweep of such a ladder, as a study's table."""
    return sweep(climb(seed, scaled, chains), [Right()], progress=False).assign(dial="natural")
