"""From names on the command line to a subject and its probes."""

import warnings
from collections.abc import Sequence
from typing import Any

from degrade import plugins
from probes import Claim, Subject


def open_subject(name: str) -> Subject:
    """The organism of that name, its model loaded as a bridge.

    Raises:
        ValueError: for an unknown name, listing the known ones.
    """
    organism = plugins.find("organisms", name)
    model, tokenizer = organism.load()
    return Subject(model=model, tokenizer=tokenizer, organism=organism, data=organism.corpus.training().tokens)


def build_probes(subject: Subject, asked: Sequence[str] | None, defaults: dict[str, dict[str, Any]]) -> list[Any]:
    """Probes by `NAME` or `NAME:key=value,key=value`, each followed by its claim; all of `defaults` if none is asked.

    Raises:
        ValueError: naming every probe that is unknown or whose settings do not fit.
    """
    wanted = [parse(text) for text in asked] if asked else list(defaults.items())
    built, faults = [], []
    for name, settings in wanted:
        try:
            probe = plugins.find("probes", name).build(subject, **settings)
        except ValueError as fault:
            faults.append(str(fault))
            continue
        built += [probe, *_claims(probe)]
    if faults:
        raise ValueError("; ".join(faults))
    return built


def _claims(probe: Any) -> list[Claim]:
    """The probe's default claim; a probe whose settings leave it none goes without, and says so."""
    try:
        return [probe.claim()] if hasattr(probe, "claim") else []
    except ValueError as reason:
        warnings.warn(f"{probe.name} is run without a claim: {reason}", stacklevel=3)
        return []


def parse(text: str) -> tuple[str, dict[str, Any]]:
    """`induction:n=16,seed=1` as a name and settings; whole numbers and decimals become numbers.

    >>> parse("induction:n=16,kind=repeat")
    ('induction', {'n': 16, 'kind': 'repeat'})
    """
    name, _, rest = text.partition(":")
    settings: dict[str, Any] = {}
    for part in filter(None, rest.split(",")):
        key, equals, value = part.partition("=")
        if not equals or not key:
            raise ValueError(f"probe {text!r}: expected NAME:key=value,key=value, got {part!r}")
        settings[key] = _number(value)
    return name, settings


def _number(value: str) -> int | float | str:
    for kind in (int, float):
        try:
            return kind(value)
        except ValueError:
            continue
    return value
