import numpy as np
import pytest
import torch

from degrade.noise import Key, batch_index, normal_like


def test_same_address_same_numbers_and_no_other():
    addresses = [
        Key(0), Key(1), Key(0, stage="calibration"), Key(0, rung=1), Key(0, chain=1), Key(0, attempt=1),
    ]  # fmt: skip
    draws = [key.numbers(purpose, step, index).random() for key in addresses for purpose in ("noise", "batch")
             for step in (0, 1) for index in (0, 1)]  # fmt: skip
    again = [key.numbers(purpose, step, index).random() for key in addresses for purpose in ("noise", "batch")
             for step in (0, 1) for index in (0, 1)]  # fmt: skip
    assert draws == again
    assert len(set(draws)) == len(draws)


def test_normal_noise_is_standard_and_leaves_the_global_generator():
    before = torch.get_rng_state()
    x, y = normal_like(Key(3), "noise", 0, [torch.zeros(100_000), torch.zeros(100_000)])
    assert abs(float(x.mean())) < 5 / np.sqrt(1e5)
    assert abs(float(x.var()) - 1) < 5 * np.sqrt(2 / 1e5)
    assert abs(float((x * y).mean())) < 5 / np.sqrt(1e5)
    assert torch.equal(before, torch.get_rng_state())


def test_noise_is_float32_whatever_the_weights_are():
    (x,) = normal_like(Key(0), "noise", 0, [torch.zeros(3, dtype=torch.bfloat16)])
    assert x.dtype == torch.float32


def test_batches_are_drawn_with_replacement_from_all_examples_unless_all_fit():
    counts = np.bincount(
        np.concatenate([batch_index(Key(0), "batch", step, 10, 5) for step in range(2000)]), minlength=10
    )
    assert counts.min() > 1000 - 5 * 30
    assert counts.max() < 1000 + 5 * 30
    assert batch_index(Key(0), "batch", 0, 10, 10).tolist() == list(range(10))


def test_unknown_purpose_is_refused():
    with pytest.raises(ValueError, match="tuple"):
        Key(0).numbers("typo", 0)
