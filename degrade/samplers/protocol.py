"""What a sampler is: two pure functions."""

from collections.abc import Callable
from typing import Any, NamedTuple


class Sampler(NamedTuple):
    """`init` binds weights to a metric and a step size; `update` takes one step.

    Any state has `weights` (float32) and `step`. `init` is called again at the start of each block, so a step size
    that changes there needs no other door.
    """

    init: Callable[..., Any]
    update: Callable[..., Any]
