"""Which options of the command line a study takes: those its `run` names, nothing else."""

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

WORDS: dict[str, bool | None] = {"true": True, "false": False, "none": None}


def accepted(study: str, run: Callable[..., Any], common: Mapping[str, Any], extra: Sequence[str]) -> dict[str, Any]:
    """Arguments for a study's `run`: the common options it takes, and its own, given as `--name value` or `--flag`.

    An option that the study does not take is dropped while it has no effect (None or False), and refused otherwise.

    Args:
        study: The study's name, for errors.
        run: Its `run`.
        common: Options that every study may take; None where the user gave none.
        extra: What else stood on the command line.

    Raises:
        ValueError: naming the options that the study does not take, and those it does.

    >>> def run(model, ladder=None, checkpoints=False, rises=None): ...
    >>> accepted("mine", run, {"model": "mixture", "quick": False}, ["--checkpoints", "--rises", "0.1+0.2"])
    {'model': 'mixture', 'checkpoints': True, 'rises': [0.1, 0.2]}
    >>> accepted("mine", run, {"model": "mixture", "quick": True}, [])
    Traceback (most recent call last):
    ValueError: study 'mine' takes no --quick; it takes --model, --ladder, --checkpoints, --rises
    """
    known = list(inspect.signature(run).parameters)
    given = dict(common) | _parsed(extra)
    wrong = [name for name, value in given.items() if name not in known and value not in (None, False)]
    if wrong:
        said, takes = (", ".join(map(_shown, names)) for names in (wrong, known))
        raise ValueError(f"study {study!r} takes no {said}; it takes {takes}")
    return {name: value for name, value in given.items() if name in known}


def _shown(name: str) -> str:
    return "--" + {"probes": "probe"}.get(name, name.replace("_", "-"))


def _parsed(extra: Sequence[str]) -> dict[str, Any]:
    """`--name value`, `--name=value` and `--flag` as a mapping."""
    found: dict[str, Any] = {}
    name: str | None = None
    for word in extra:
        if word.startswith("--"):
            key, equals, value = word[2:].partition("=")
            key = key.replace("-", "_")
            found[key], name = (_value(value), None) if equals else (True, key)
        elif name is None:
            raise ValueError(f"expected --name value, got {word!r} without an option before it")
        else:
            found[name], name = _value(word), None
    return found


def _value(text: str) -> Any:
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    if "+" in text:
        return [_value(part) for part in text.split("+")]
    return WORDS.get(text, text)
