"""Samplers: each a module with `State`, `init` and `update`, in that order.

    init(weights, metric, step_size, key, step) -> State
    update(state, gradient, key) -> State            gradient = ∇U at state.weights

Everything that changes between steps is in the state; noise is a pure function of the key and the step.
To add one: a new file, an import line and a name here, a line in the contract test.
"""

from functools import partial

from degrade.samplers import sgld
from degrade.samplers.protocol import Sampler

SAMPLERS: dict[str, Sampler] = {
    "sgld": Sampler(sgld.init, sgld.update),
    "ula": Sampler(partial(sgld.init, scheme="plain"), sgld.update),
}

__all__ = ["SAMPLERS", "Sampler"]
