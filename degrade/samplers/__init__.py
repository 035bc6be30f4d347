"""Samplers: each a module with `State`, `init`, `update` and `resize`, in that order (see `protocol.Sampler`).

With `auto`, the default, a rung takes `sgld` where heating by minibatches limits the step and `baoab` where stability
does (`degrade.step_size.choose`). At one step size ε both have the same law, and an energy of curvature a is forgotten
in 2/(εPa) + ½ steps by `sgld`, in 2/(εPa) + ½ + α/(1 − α) by `baoab` with α = 0.7 (integrated autocorrelation times,
exact on quadratics): momentum costs 2.3 steps, and what it buys is an ε that may be 3.8 times as large before it is
unstable.

Everything that changes between steps is in the state; noise is a pure function of the key and the step.
To add one: a new file, an import line and a name here, a line in the contract test.
"""

from functools import partial

from degrade.samplers import baoab, hmc, laplace, mala, sgld, sgnht
from degrade.samplers.protocol import Sampler, Target

SAMPLERS: dict[str, Sampler] = {
    "baoab": Sampler(baoab.init, baoab.update, baoab.resize, baoab.STABILITY, baoab.MEMORY, order=2),
    "hmc": Sampler(hmc.init, hmc.update, hmc.resize, hmc.STABILITY, hmc.MEMORY, asks=True, exact=True),
    "laplace": Sampler(
        laplace.init, laplace.update, laplace.resize, laplace.STABILITY, laplace.MEMORY, asks=True, still=True
    ),
    "mala": Sampler(mala.init, mala.update, mala.resize, mala.STABILITY, mala.MEMORY, asks=True, exact=True),
    "sgld": Sampler(sgld.init, sgld.update, sgld.resize, sgld.STABILITY, sgld.MEMORY, order=2),
    "sgnht": Sampler(sgnht.init, sgnht.update, sgnht.resize, sgnht.STABILITY, sgnht.MEMORY),
    "ula": Sampler(partial(sgld.init, scheme="plain"), sgld.update, sgld.resize, 0.2, sgld.MEMORY),
}

AUTO = "auto"


def exact(name: str) -> bool:
    """Whether a sampler, or the default, needs all data at each step."""
    return name != AUTO and SAMPLERS[name].exact


__all__ = ["AUTO", "SAMPLERS", "Sampler", "Target", "exact"]
