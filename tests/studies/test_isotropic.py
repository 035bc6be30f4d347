import numpy as np
import pytest
import torch

from studies import isotropic
from tests.degrade.test_ladder import short_ladder


@pytest.fixture(scope="module")
def dial():
    ladder = short_ladder(steps=400, burn_in=100, chains=4)
    return ladder, isotropic.climb(ladder, chains=3, draws=2, seed=0)


def test_draws_have_the_rise_of_their_rung(dial):
    ladder, noisy = dial
    for row in ladder.table[ladder.table.rung > 0].itertuples():
        mine = [draw for draw in noisy.draws() if draw.rung == row.rung]
        assert len(mine) == 6
        mean, error = np.mean([d.rise for d in mine]), np.std([d.rise for d in mine], ddof=1) / np.sqrt(6)
        assert abs(mean - row.evaluation_rise) < max(4 * error, 0.05 * row.evaluation_rise)


def test_noise_is_isotropic_of_one_strength_and_grows_with_the_rung(dial):
    ladder, noisy = dial
    first, last = next(noisy.draws()), list(noisy.draws())[-1]
    assert first.strength < last.strength
    own = ladder.selection.copy()
    with noisy.applied(last):
        moved = torch.cat([(w - o).flatten() for w, o in zip(ladder.selection.copy(), own, strict=True)])
    spread = float(moved.std()) / last.strength
    assert abs(spread - 1) < 4 / np.sqrt(2 * len(moved))


def test_the_model_is_left_as_it_was(dial):
    ladder, noisy = dial
    before = [p.clone() for p in ladder.model.parameters()]
    with noisy.applied(next(noisy.draws())):
        pass
    assert all(torch.equal(a, b) for a, b in zip(before, ladder.model.parameters(), strict=True))
