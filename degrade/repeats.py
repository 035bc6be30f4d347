"""Whether minibatches come again in some fixed order.

Batches are drawn independently of each other and of the weights; all means over steps rest on that. A batch that comes
again shows in the rise that is measured on it: its noise comes again too.
"""

import numpy as np
from scipy.stats import rankdata

LAGS = 16  # changes of the rise less far apart than this are correlated by the dynamics
ERRORS = 4.5


def repeats(rises: np.ndarray) -> float:
    """How strongly the minibatch noise of one step comes again at a later one.

    Of the ranks of the changes r_{t+1} − r_t, which slow fluctuations of the rise hardly enter: the largest
    autocorrelation, mean over chains, at lags from 16 to half the steps, each less 4.5 standard errors √(1.5 / pairs)
    (independent noise has correlation −½ between neighbouring changes). 0 if nothing comes again.

    Args:
        rises: the rise on each step's own minibatch, shape (chains, steps).

    >>> noise = np.random.default_rng(0).normal(size=(4, 400))
    >>> repeats(noise), repeats(np.tile(noise[:, :50], 8)) > 0.5
    (0.0, True)
    """
    chains, steps = rises.shape
    if steps < 4 * LAGS:
        return 0.0
    changes = rankdata(np.diff(rises, axis=1), axis=1)
    changes -= changes.mean(1, keepdims=True)
    size = np.sqrt((changes**2).sum(1, keepdims=True))
    changes /= np.where(size > 0, size, 1.0)
    power = np.abs(np.fft.rfft(changes, 2 * steps, axis=1)) ** 2
    lags = np.arange(LAGS, steps // 2)
    pairs = steps - lags
    means = np.fft.irfft(power, axis=1).mean(0)[lags] * steps / pairs
    return max(0.0, float((means - ERRORS * np.sqrt(1.5 / (chains * pairs))).max()))
