"""Content keys: equal for equal content, wherever it lies; different for any other."""

from dataclasses import dataclass
from functools import partial

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

from degrade.fingerprint import code_key, key_of, source_key, tensors
from tests.degrade.toys import classifier


@dataclass(frozen=True)
class Settings:
    rate: float
    weights: list


class Bare:
    """Shows nothing but its address."""


def double(x):
    return 2 * x


def twice(x):
    return x * 2


VALUES = {
    "number": lambda: 1.5,
    "text": lambda: "a",
    "nested": lambda: {"a": [1, (2.0, None)], "b": {3, 4}},
    "tensor": lambda: torch.arange(6.0).reshape(2, 3),
    "bfloat16": lambda: torch.ones(3, dtype=torch.bfloat16),
    "array": lambda: np.arange(3),
    "words": lambda: np.array(["a", None], dtype=object),
    "table": lambda: pd.DataFrame({"a": [1, 2], "b": ["x", None]}),
    "dataclass": lambda: Settings(0.1, [torch.zeros(2)]),
    "partial": lambda: partial(double, 3),
    "function": lambda: double,
    "bare": lambda: Bare(),
    "module": lambda: classifier()[0],
}


@pytest.mark.parametrize("name", VALUES)
def test_the_same_content_has_the_same_key(name):
    assert key_of(VALUES[name]()) == key_of(VALUES[name]())


def test_other_content_has_other_keys():
    keys = [key_of(make()) for make in VALUES.values()]
    tilted = torch.arange(6.0).reshape(3, 2).T
    others = [
        1.25, "b", {"a": [1, (2.0, 0)], "b": {3, 4}}, tilted, torch.arange(6.0), torch.zeros(3, dtype=torch.bfloat16),
        np.arange(3.0), pd.DataFrame({"a": [1, 2], "c": ["x", None]}), Settings(0.1, [torch.ones(2)]),
        partial(double, 4), twice, [["a"], "b"], ["a", ["b"]], torch.tensor([0.0]), torch.tensor([-0.0]),
    ]  # fmt: skip
    keys += [key_of(other) for other in others]
    assert len(set(keys)) == len(keys)


def test_a_tensor_that_was_written_to_has_another_key():
    tensor = torch.zeros(3)
    before = key_of(tensor)
    tensor[1] = 1
    assert key_of(tensor) != before
    tensor[1] = 0
    assert key_of(tensor) == before


def test_a_module_is_known_by_its_weights():
    net = nn.Linear(2, 2)
    before = key_of(net)
    net.weight.data[0] += 1
    assert key_of(net) != before


def test_all_tensors_of_a_value_are_found_once():
    one, two = torch.zeros(2), torch.ones(2)
    found = tensors((Settings(0.1, [one, two]), {"again": one}, "text"))
    assert {id(x) for x in found} == {id(one), id(two)}


def test_code_is_known_by_its_text():
    assert source_key(double) != source_key(twice)
    assert code_key("degrade") != code_key("probes") != code_key("no_such_package")
