"""Control variate: what the gradient at w* on the same minibatch has in common with the gradient at w is taken out.

    ĝ(w) ← ĝ_B(w) − ĝ_B(w*) + ∇L(w*),      ∇L(w*) over all the data, once

Baker et al. 2019, "Control variates for stochastic gradient MCMC" (arXiv:1706.05439), with w* as the centering value.
The mean stays ∇L(w); the noise of a quadratic loss with one Hessian vanishes. A step takes two gradients, and twice the
batch would leave half the noise at that price: it pays where the variance falls below a half, near w* and on cold rungs
(`python -m tests.benchmarks heating` measures where).
"""

from collections.abc import Iterable
from dataclasses import dataclass, fields, replace

import numpy as np
import torch
from torch import Tensor

from degrade.chain import Scene
from degrade.engine import one_thread
from degrade.potential import CHUNK, Potential


@dataclass(frozen=True)
class Controlled(Potential):
    """A potential whose minibatch gradients have those at w* as control variate; `whole` is ∇L(w*)."""

    whole: tuple[Tensor, ...] = ()

    def gradient(self, weights: Iterable[Tensor], index: np.ndarray) -> tuple[Tensor, list[Tensor]]:
        """The paired rise and the gradient, the noise in common taken out; two gradients."""
        there = super().gradient(self.center, index)[1]
        rise, here = super().gradient(weights, index)
        return rise, [g - c + w for g, c, w in zip(here, there, self.whole, strict=True)]

    @property
    def plain(self) -> Potential:
        """The potential without control variate."""
        return Potential(**{f.name: getattr(self, f.name) for f in fields(Potential)})

    def settled(self, weights: list[Tensor]) -> list[Tensor]:
        """The weights themselves: w* takes their place in the model at each step."""
        return weights


def controlled(scene: Scene, wanted: bool = True) -> Scene:
    """The scene with control variate, if it is wanted; one pass over all the data.

    >>> import torch
    >>> from degrade.scene import set_scene
    >>> from degrade.parameters import select
    >>> from degrade.request import Request
    >>> net, x = torch.nn.Linear(2, 1), torch.randn(100, 2)
    >>> loss = lambda model, x: (model(x) ** 2).sum(1)
    >>> scene = set_scene(net, select(net), x, loss, Request(nbetas=[1.0], gamma=1.0), None, (), False)
    >>> one = controlled(scene).potential
    >>> torch.allclose(one.gradient(one.center, [3, 7])[1][0], one.whole[0])  # at w* no noise is left
    True
    """
    potential = scene.potential
    if not wanted:
        return scene
    examples, mean = len(potential.data), [torch.zeros_like(w) for w in potential.center]
    with one_thread():
        for index in potential.data.chunks(CHUNK):
            gradient = potential.gradient(potential.center, index)[1]
            torch._foreach_add_(mean, gradient, alpha=len(index) / examples)
    own = {f.name: getattr(potential, f.name) for f in fields(Potential)}
    return replace(scene, potential=Controlled(**own, whole=tuple(mean)))
