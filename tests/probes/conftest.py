"""Fixtures of the probe tests."""

import pytest

from tests.probes import toys


@pytest.fixture(scope="session")
def model():
    """A random two-layer Llama as a bridge; tests must leave it as it is."""
    return toys.bridge()


@pytest.fixture(scope="session")
def corpus():
    return toys.Corpus()
