"""The control dial: isotropic Gaussian noise on the weights, w = w* + σ ξ, at the loss rises of a ladder.

One σ for all weights, found so that the mean rise of a rung's draws equals the rise of the ladder's rung on the same
fixed evaluation set. What this dial breaks first says how fragile a behaviour is to noise, not how much of the loss it
carries.
"""

from degrade.result import Ladder
from studies import dials_matching
from studies.dials_laws import ISOTROPIC


def climb(ladder: Ladder, chains: int, draws: int, seed: int, progress: bool = False) -> dials_matching.Dial:
    """Isotropic noise at the evaluation-set rise of each rung of a ladder that is not failed.

    A rung is `ok` when the mean rise of its draws meets the ladder's within 3 standard errors or 5 %.
    """
    return dials_matching.climb(ladder, ISOTROPIC, chains, draws, seed, progress)
