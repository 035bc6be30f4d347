"""Randomness as a pure function of its purpose.

Each random number of a run is fixed by (seed, stage, rung, chain, attempt, turn, purpose, step, index) through
`numpy.random.SeedSequence`: never by arithmetic on seeds, never by a global generator. So runs can be resumed,
spread over processes and repeated bit for bit.
"""

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from degrade.slabs import WHOLE

Tensors = list[Tensor] | tuple[Tensor, ...]

PURPOSES = (
    "noise", "batch", "curvature", "labels", "prior", "evaluation", "power", "pilot", "heat one", "heat two", "second",
    "probe", "accept",
)  # fmt: skip
_POSITIVE = 2**63 - 1
STAGES = ("calibration", "production", "control", "cooling", "halved")


class Key(NamedTuple):
    """The address of a chain's randomness.

    >>> Key(seed=0, chain=1).numbers("batch", 5).integers(10, size=3).shape
    (3,)
    """

    seed: int
    stage: str = "production"
    rung: int = 0
    chain: int = 0
    attempt: int = 0
    turn: int = 0

    def sequence(self, purpose: str, step: int, index: int = 0) -> np.random.SeedSequence:
        """The seed sequence of one purpose at one step."""
        where = (STAGES.index(self.stage), self.rung, self.chain, self.attempt, self.turn)
        address = (*where, PURPOSES.index(purpose), step, index)
        return np.random.SeedSequence(entropy=self.seed, spawn_key=address)

    def numbers(self, purpose: str, step: int, index: int = 0) -> np.random.Generator:
        """A numpy generator for one purpose at one step."""
        return np.random.Generator(np.random.PCG64(self.sequence(purpose, step, index)))

    def torch(self, purpose: str, step: int, index: int = 0, device: torch.device | str = "cpu") -> torch.Generator:
        """A torch generator for one purpose at one step."""
        state = self.sequence(purpose, step, index).generate_state(1, np.uint64)[0]
        return torch.Generator(device).manual_seed(int(state) & _POSITIVE)


def normal_like(key: Key, purpose: str, step: int, tensors: Tensors, part: slice = WHOLE) -> list[Tensor]:
    """Independent standard normal tensors in float32, one a parameter; of all of them, or of a part.

    Each has a stream of its own, seeded by the word of the address' seed sequence that has the parameter's number.
    """
    seeds = key.sequence(purpose, step).generate_state(len(tensors), np.uint64).tolist()
    generators: dict[torch.device, torch.Generator] = {}
    noise = []
    for tensor, seed in zip(tensors[part], seeds[part], strict=True):
        generator = generators.setdefault(tensor.device, torch.Generator(tensor.device)).manual_seed(seed & _POSITIVE)
        noise.append(torch.empty(tensor.shape, dtype=torch.float32, device=tensor.device).normal_(generator=generator))
    return noise


def batch_index(key: Key, purpose: str, step: int, examples: int, size: int) -> np.ndarray:
    """Indices of a batch drawn with replacement, independent of any chain; all examples once if they fit."""
    if size >= examples:
        return np.arange(examples)
    return key.numbers(purpose, step).integers(examples, size=size)
