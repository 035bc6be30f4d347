"""What a probe is, what it is built from, and claims: probes with a yes or a no."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import wraps
from typing import Any, ParamSpec, Protocol, TypeVar

import pandas as pd

from probes.corpus import Corpus

P = ParamSpec("P")
R = TypeVar("R")


@dataclass(frozen=True)
class Measure:
    """How to read one measure of a probe.

    Attributes:
        chance: Value that a model without the behaviour gets; None if it is not one number. A `chance` column in the
            probe's table wins over it, row by row.
        higher: Whether more is better.
        binary: Whether each row is 0 or 1.
        unit: Unit of the value, e.g. "nats per token"; "share" for numbers without one.

    >>> Measure(chance=0.25, higher=True, binary=True, unit="share").chance
    0.25
    """

    chance: float | None
    higher: bool
    binary: bool
    unit: str


class Probe(Protocol):
    """A question asked of one model.

    The answer is a table with the columns `measure` and `value` (float) and the probe's own keys: `example`, `layer`,
    `head`, `position`, ... Two keys have a meaning to studies: rows with a `behaviour` are what a survival curve
    follows, rows without are cells (heads, patching sites); a `chance` is the chance level of that row.

    A probe writes nothing to the model, leaves no hook, draws no global random number and answers the same twice. It
    may carry `measures`, a mapping from measure to `Measure`, `draws`, how many draws per chain and rung it is worth
    asking, and `needs`, what `degrade list probes` says it is built from. Any function `model -> DataFrame` is a probe
    too; its name is the function's.
    """

    @property
    def name(self) -> str:
        """Name in tables, figures and on the command line."""

    def __call__(self, model: Any) -> pd.DataFrame:
        """Ask the question; one row per answer."""


class Organism(Protocol):
    """A trained model that ships with its data; what probes read of it."""

    @property
    def corpus(self) -> Corpus:
        """The generated corpus it was trained on."""


@dataclass(frozen=True, eq=False)
class Subject:
    """What a probe asked for by name is built from.

    Attributes:
        model: The trained model at w*, in eval mode.
        tokenizer: Its tokenizer, if any.
        organism: The organism it belongs to, if any.
        data: The sampling data, if any.

    >>> Subject(model="weights").organism is None
    True
    """

    model: Any
    tokenizer: Any = None
    organism: Organism | None = None
    data: Any = None

    def corpus(self, probe: str, *needs: str) -> Corpus:
        """The organism's corpus, checked for what a probe asks of it.

        Args:
            probe: Name of the probe that asks.
            *needs: Methods of the corpus that it calls.

        Raises:
            ValueError: If there is no organism, or its corpus lacks one of the methods; the message names it.
        """
        if self.organism is None:
            raise ValueError(
                f"probe {probe!r} takes its questions from an organism's corpus ({', '.join(needs)}), and this "
                f"subject has no organism: give Subject(organism=...), or make {probe.title()}(...) from your own data"
            )
        lacking = [need for need in needs if not hasattr(self.organism.corpus, need)]
        if lacking:
            raise ValueError(
                f"probe {probe!r} needs {', '.join(f'corpus.{need}()' for need in needs)}, and the corpus of this "
                f"organism lacks {', '.join(lacking)}: add it, or leave the probe out"
            )
        return self.organism.corpus


@dataclass(frozen=True, eq=False)
class Claim:
    """A statement about a model that a probe's table confirms or refutes.

    Attributes:
        probe: The probe whose table decides.
        statement: The claim in words, e.g. "head 1.2 is the strongest induction head".
        holds: The predicate on that table.

    >>> import pandas as pd
    >>> def size(model): return pd.DataFrame({"measure": ["size"], "value": [float(model)]})
    >>> claim = Claim(size, "the model is large", lambda table: table.value.mean() > 10)
    >>> claim(3)
      measure  value           statement
    0   holds    0.0  the model is large
    """

    probe: Callable[[Any], pd.DataFrame]
    statement: str
    holds: Callable[[pd.DataFrame], bool]

    @property
    def name(self) -> str:
        """The statement, marked as a claim."""
        return f"claim: {self.statement}"

    @property
    def measures(self) -> Mapping[str, Measure]:
        """One binary measure, `holds`."""
        return {"holds": Measure(chance=None, higher=True, binary=True, unit="share")}

    @property
    def draws(self) -> int | None:
        """As many draws as its probe."""
        return getattr(self.probe, "draws", None)

    def check(self, table: pd.DataFrame) -> bool:
        """Whether the claim holds on a table of its probe."""
        return bool(self.holds(table))

    def answer(self, table: pd.DataFrame) -> pd.DataFrame:
        """The claim's own table, decided by a table of its probe: one row, 1 if it holds, else 0."""
        value = [float(self.check(table))]
        return pd.DataFrame({"measure": ["holds"], "value": value, "statement": [self.statement]})

    def __call__(self, model: Any) -> pd.DataFrame:
        """Ask the probe, then decide."""
        return self.answer(self.probe(model))


def name_of(probe: Callable[[Any], pd.DataFrame]) -> str:
    """The probe's `name`, or the name of the function.

    Raises:
        ValueError: If it has neither.

    >>> name_of(name_of)
    'name_of'
    """
    name = getattr(probe, "name", None) or getattr(probe, "__name__", None)
    if not isinstance(name, str):
        raise ValueError(f"probe {probe!r} has no name: set its attribute `name`, or pass a function defined by `def`")
    return name


def known_settings(build: Callable[P, R]) -> Callable[P, R]:
    """Decorate a `build(cls, subject, *, ...)` so that an unknown setting is refused with the list of the known ones.

    >>> @known_settings
    ... def build(cls, subject, *, n=8, seed=0): return n
    >>> build(int, None, m=3)
    Traceback (most recent call last):
    ValueError: int has no setting 'm'; its settings are n, seed
    """
    known = [p.name for p in inspect.signature(build).parameters.values() if p.kind is p.KEYWORD_ONLY]

    @wraps(build)
    def checked(*args: P.args, **settings: P.kwargs) -> R:
        unknown = [repr(name) for name in settings if name not in known]
        if unknown:
            owner = getattr(args[0], "__name__", "probe")
            raise ValueError(f"{owner} has no setting {', '.join(unknown)}; its settings are {', '.join(known)}")
        return build(*args, **settings)

    return checked


def positive(probe: str, setting: str, value: int) -> int:
    """`value` if it is a whole number above 0, else a ValueError that names probe and setting.

    >>> positive("recall", "n", 3)
    3
    """
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ValueError(f"{probe}: {setting} must be a whole number of at least 1, got {value!r}")
    return value
