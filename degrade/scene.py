"""What a ladder is climbed on: the losses at w*, the fixed sets, and the highest rise that can be asked for."""

from functools import partial
from typing import Any

import numpy as np
import torch
from torch import nn
from tqdm.auto import tqdm

from degrade.chain import Scene
from degrade.compute import computed, moved
from degrade.data import Examples
from degrade.engine import one_thread
from degrade.losses import Loss, label_loss, next_token_loss
from degrade.manifest import weights_key
from degrade.models import bare
from degrade.noise import Key, normal_like
from degrade.parameters import Selection, lent, select
from degrade.potential import FixedSet, Potential, calibrated_loss, check_baseline, example_nats
from degrade.request import Request

PRIOR_DRAWS = 8


def set_scene(
    model: nn.Module,
    selection: Selection,
    data: Any,
    loss: Loss,
    request: Request,
    heldout: Any,
    observe: tuple[Any, ...],
    progress: bool,
    center: list[torch.Tensor] | None = None,
) -> Scene:
    """Measure the trained weights on all data and fix the evaluation set; `center` are they, if a copy is there."""
    examples, device = Examples(data), selection.tensors[0].device
    shown = partial(tqdm, desc="losses at w*", leave=False, disable=not progress, delay=2)
    center = center or selection.copy()
    with one_thread():
        light = computed(lean(model, loss, examples), request.compute)
        nats, count = example_nats(light, loss, examples, device, shown)
        check_baseline(nats, count)
        chosen = _chosen(request, len(examples))
        precision, unit = _precision(request, center), float(count.mean())
        potential = Potential(light, loss, examples, selection, center, precision, nats, unit, request.micro_batch)
        evaluation = _fixed(light, loss, Examples(examples.batch(chosen)), device, chosen)
        held = None if heldout is None else _fixed(light, loss, Examples(heldout), device)
    return Scene(potential, evaluation, held, observe, request.keep == "weights", weights_key(model), model)


def _chosen(request: Request, examples: int) -> np.ndarray:
    """Which examples make the fixed set."""
    return np.sort(Key(request.seed).numbers("evaluation", 0).permutation(examples)[: request.evaluation])


def lean(model: nn.Module, loss: Loss, examples: Examples) -> nn.Module:
    """The model without its hooks, where the loss is one of the package's and both give the same nats."""
    light = bare(model)
    if light is model or loss not in (next_token_loss, label_loss):
        return model
    first = Examples(examples.batch(np.arange(min(8, len(examples)))))
    one, two = (example_nats(m, loss, first, next(model.parameters()).device)[0] for m in (model, light))
    return light if torch.allclose(one, two, rtol=1e-4, atol=1e-3) else model


def _precision(request: Request, center: list[torch.Tensor]) -> list[float]:
    return [scale**-2 for scale in request.neighbourhood.scales(center)]


def _fixed(
    model: nn.Module, loss: Loss, data: Examples, device: torch.device, index: np.ndarray | None = None
) -> FixedSet:
    nats, count = example_nats(model, loss, data, device)
    check_baseline(nats, count)
    return FixedSet(data, loss, nats.cpu(), count.cpu(), calibrated_loss(model, loss, data, device), index)


def reachable(scene: Scene, seed: int) -> float:
    """E_max: the mean rise of draws from the neighbourhood alone (nβ = 0), nats per unit: 4 draws and their mirrors."""
    potential = scene.potential
    rises = []
    with one_thread():
        for number in range(PRIOR_DRAWS):
            noise, side = normal_like(Key(seed), "prior", number // 2, potential.center), (-1.0) ** number
            weights = [
                c + side * x * a**-0.5 * (1.0 if m is None else m.to(x.device))
                for c, x, m, a in zip(
                    potential.center, noise, potential.selection.masks, potential.precision, strict=True
                )
            ]
            potential.selection.place(weights)
            nats = example_nats(potential.model, potential.loss, scene.evaluation.data, potential.device)[0]
            potential.selection.refuse_written(weights)
            rises.append(scene.evaluation.rises(nats.cpu()))
        potential.selection.place(potential.center)
    return float(np.mean(rises))


def reach(model: nn.Module, data: Any, loss: Loss = next_token_loss, seed: int = 0, **settings: Any) -> float:
    """E_max of a model: targets must lie below it, and below 0.8 of it for the loss to decide, not the neighbourhood.

    Args:
        model: as for `ladder`, given back bit for bit.
        data: as for `ladder`.
        loss: as for `ladder`.
        seed: of evaluation set and draws; a ladder of the same seed and settings finds the same.
        **settings: width or gamma, evaluation.
    """
    request, selection = Request.of(nbetas=[1.0], seed=seed, **settings), select(model, None)
    examples = Examples(data)
    fixed = examples.batch(_chosen(request, len(examples)))
    with moved(model, request.device), lent(model, selection):
        return reachable(set_scene(model, selection, fixed, loss, request, None, (), False), seed)
