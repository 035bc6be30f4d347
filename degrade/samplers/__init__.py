"""Samplers: each a module with `State`, `init`, `update` and `resize`, in that order (see `protocol.Sampler`).

Everything that changes between steps is in the state; noise is a pure function of the key and the step.
To add one: a new file, an import line and a name here, a line in the contract test.
"""

from functools import partial

from degrade.samplers import baoab, sgld
from degrade.samplers.protocol import Sampler

SAMPLERS: dict[str, Sampler] = {
    "baoab": Sampler(baoab.init, baoab.update, baoab.resize, baoab.STABILITY, baoab.MEMORY),
    "sgld": Sampler(sgld.init, sgld.update, sgld.resize, sgld.STABILITY, sgld.MEMORY),
    "ula": Sampler(partial(sgld.init, scheme="plain"), sgld.update, sgld.resize, 0.2, sgld.MEMORY),
}

__all__ = ["SAMPLERS", "Sampler"]
