"""A table of independent skills: the smallest model that can be degraded, with behaviours whose fate is known."""

import numpy as np
import pandas as pd
import torch
from torch import nn

import degrade
from probes.probe import Measure
from studies.climbing import Size
from studies.dials_agreement import NATURAL, agreements
from studies.finetuning import swept
from studies.finetuning_ladders import BASE, MIXED, Losses, climb_all

SKILLS, INPUTS, CLASSES = 6, 4, 5
SIZE = Size((0.4, 1.0, 2.0), 4, 2, 2, 256, 0, 120, 50, width=4.0)


class Skills:
    """Probability of the right class on each skill's inputs."""

    name = "skills"
    measures = {"right": Measure(chance=1 / CLASSES, higher=True, binary=False, unit="probability")}

    def __call__(self, model):
        with torch.no_grad():
            right = model(torch.arange(SKILLS * INPUTS)).softmax(-1)[:, 0]
        skill = np.repeat([f"skill {k}" for k in range(SKILLS)], INPUTS)
        place = np.arange(SKILLS * INPUTS)
        return pd.DataFrame({"measure": "right", "value": right.double().numpy(), "behaviour": skill, "example": place})


def table_model(margin=3.0, scaled=()):
    """Logits by input: class 0 is right by about `margin` nats; some skills are scaled down by hand."""
    noise = torch.randn(SKILLS * INPUTS, CLASSES, generator=torch.Generator().manual_seed(0))
    weights = 0.3 * noise
    weights[:, 0] += margin
    for skill, factor in scaled:
        weights[skill * INPUTS : (skill + 1) * INPUTS] *= factor
    return nn.Embedding.from_pretrained(weights, freeze=False)


def examples(skills, seed=0):
    """Inputs of some skills, each half as frequent as the one before, labels drawn from the unscaled model."""
    generator = torch.Generator().manual_seed(seed)
    copies = [2 ** (SKILLS - 1 - skill) for skill in skills for _ in range(INPUTS)]
    inputs = torch.tensor([skill * INPUTS + k for skill in skills for k in range(INPUTS)])
    inputs = inputs.repeat_interleave(torch.tensor(copies))
    with torch.no_grad():
        chances = table_model()(inputs).softmax(-1)
    return inputs, torch.multinomial(chances, 1, generator=generator)[:, 0]


def joined(first, second):
    return tuple(torch.cat(parts) for parts in zip(first, second, strict=True))


SETS = {
    "base": examples(range(SKILLS), seed=1),
    "task": examples([0, 1], seed=2),
    "others": examples(range(2, SKILLS), seed=3),
}
DATA = {MIXED: joined(examples(range(SKILLS)), examples([0, 1], seed=5))}


def climbed(copies, seeds, size=SIZE):
    """Ladders of the base model and of some copies, all on the mixture."""
    models = {BASE: table_model(), **copies}
    wanted = [(name, MIXED) for name in models]
    return climb_all(models, DATA, wanted, size, seeds, degrade.label_loss, progress=False)


def asked(ladders, size=SIZE):
    """The study's sweep of such ladders."""
    return swept(ladders, [Skills(), Losses(SETS, degrade.label_loss)], size.asked, 1, False)


def sweep(copies, seeds, size=SIZE):
    """Ladders of the base model and of some copies, swept."""
    return asked(climbed(copies, seeds, size), size)


def calls_of_dials(table):
    """Whether a copy's ladder, taken for another dial, is called to follow frequency otherwise than the base's."""
    number = table.behaviour.str.extract(r"(\d+)")[0].astype(float)
    dials = table.assign(dial=table.model.map({BASE: NATURAL, "copy": "copy"}), frequency=2.0 ** (SKILLS - number))
    return agreements(dials).q <= 0.05
