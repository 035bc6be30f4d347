"""From names on the command line or in a study file to a subject and its probes."""

import sys
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from degrade import plugins
from degrade.naming import form, open_model
from degrade.packing import pack
from degrade.sources import read
from probes import Claim, Subject
from probes.probe import name_of
from studies.texts import Text, TextCorpus

Wanted = tuple[str, dict[str, Any]]
ALL = "all"
WORDS: dict[str, bool | None] = {"true": True, "false": False, "none": None}


def open_subject(name: str, data: str | None = None, context: int | None = None) -> Subject:
    """A model by name, and what it is sampled on.

    Args:
        name: An organism, a Hugging Face directory, a hub name or `package.module:function`, see `degrade.naming`.
        data: Documents by name, see `degrade.sources`; None for an organism's own corpus.
        context: Tokens a window of the data, see `degrade.packing`.

    Returns:
        The model with its organism; or, where data are named, with a `studies.texts.Text` in the organism's place,
        whose sampling set are the data. The tokens of each set are shown on standard error.

    Raises:
        ValueError: for an unknown name, data that are not the model's, or a model without data of its own.
        OSError: if model or data are not there.
    """
    own = form(name) == "organism"
    if data is None and not own:
        organisms = ", ".join(plugins.installed("organisms"))
        raise ValueError(
            f"model {name!r} is no organism (those are {organisms}), so it brings no data: give documents with --data"
            " (a text file or folder, jsonl, ...)"
        )
    if data is None and context is not None:
        raise ValueError(f"context={context} is for documents given with --data; the organism {name!r} has its own")
    source = None if data is None else read(data)
    model, tokenizer = open_model(name)
    if source is None:
        organism = plugins.find("organisms", name)
        examples = organism.examples(organism.corpus.training().tokens)
        return Subject(model=model, tokenizer=tokenizer, organism=organism, data=examples)
    packed = pack(source, tokenizer, model, context)
    print(packed, file=sys.stderr)
    text: Any = Text(name, model, tokenizer, TextCorpus(packed))
    return Subject(model=model, tokenizer=tokenizer, organism=text, data=packed.sampling.windows)


def build_probes(
    subject: Subject, asked: Sequence[str] | Mapping[str, Mapping[str, Any]] | None, defaults: dict[str, dict[str, Any]]
) -> list[Any]:
    """Probes by name and settings, each followed by its claim.

    Names and settings of all probes are checked before the first is built. Probes that were asked for by name must all
    fit the subject; of the defaults, and of "all", those that do not are left out with a warning.

    Args:
        subject: What they are asked of.
        asked: `NAME` or `NAME:key=value,key=value`, or settings by name as a study file has them; "all" for every
            installed probe; None for `defaults` and those that the organism brings.
        defaults: The study's own, settings by name.

    Raises:
        ValueError: naming all that is wrong with any of them.
    """
    chosen, optional = _wanted(asked, {**defaults, **getattr(subject.organism, "asked", {})})
    chosen = [_suited(subject, one) for one in chosen]
    checked, faults = _checked(chosen, optional)
    built: list[Any] = []
    for name, (build, settings) in checked:
        try:
            built.append(build(subject, **settings))
        except (ValueError, TypeError) as fault:
            faults.append(f"{name}: {fault}")
    names = [name_of(probe) for probe in built]
    faults += [f"{name!r} is asked for twice" for name in sorted({n for n in names if names.count(n) > 1})]
    if faults and not (optional and built):
        raise ValueError("; ".join(faults))
    for unfit in faults:
        warnings.warn(f"left out: {unfit}", stacklevel=2)
    return [one for probe in built for one in (probe, *_claims(probe))]


def _wanted(
    asked: Sequence[str] | Mapping[str, Mapping[str, Any]] | None, defaults: dict[str, dict[str, Any]]
) -> tuple[list[Wanted | ValueError], bool]:
    """Names with settings, or what is wrong with their spelling; and whether those that do not fit may be left out."""
    if not asked:
        return list(defaults.items()), True
    if isinstance(asked, Mapping):
        return [(name, dict(settings)) for name, settings in asked.items()], False
    if list(asked) == [ALL]:
        return [(name, {}) for name in plugins.installed("probes")], True
    return [_parsed(text) for text in asked], False


def _suited(subject: Subject, one: Wanted | ValueError) -> Wanted | ValueError:
    """Settings that a probe takes where the subject has a text in an organism's place, those asked for aside."""
    if isinstance(one, ValueError) or not isinstance(subject.organism, Text):
        return one
    return one[0], {**subject.organism.probes().get(one[0], {}), **one[1]}


def _parsed(text: str) -> Wanted | ValueError:
    try:
        return parse(text)
    except ValueError as fault:
        return fault


def _checked(wanted: Sequence[Wanted | ValueError], optional: bool) -> tuple[list[tuple[str, Any]], list[str]]:
    """Constructors with their settings, and a sentence for each probe whose name or settings are wrong."""
    checked, faults = [], []
    for one in wanted:
        if isinstance(one, ValueError):
            faults.append(str(one))
            continue
        name, settings = one
        try:
            build = _constructor(name)
            checked.append((name, (build, plugins.check_settings(name, build, settings))))
        except ValueError as fault:
            faults.append(str(fault))
    if faults and not optional:
        raise ValueError("; ".join(faults))
    return checked, faults


def _constructor(name: str) -> Callable[..., Any]:
    """The `build` of a probe by name; a plain function `model -> DataFrame` is its own, without settings."""
    plugin = plugins.find("probes", name)
    if hasattr(plugin, "build"):
        return plugin.build
    if isinstance(plugin, type) or not callable(plugin):
        raise ValueError(f"probe {name!r} ({plugin!r}) has neither build(subject, **settings) nor is it a function")
    return lambda subject: plugin


def _claims(probe: Any) -> list[Claim]:
    """The probe's default claim; a probe whose settings leave it none goes without, and says so."""
    try:
        return [probe.claim()] if hasattr(probe, "claim") else []
    except ValueError as reason:
        warnings.warn(f"{probe.name} is run without a claim: {reason}", stacklevel=3)
        return []


def parse(text: str) -> Wanted:
    """`induction:n=16,seed=1` as a name and settings; numbers, true, false and none are read, a+b is a list.

    Raises:
        ValueError: naming the part that is not of the form key=value.

    >>> parse("ioi:n=16,ablation=zero,circuit=L0H1+L0H2")
    ('ioi', {'n': 16, 'ablation': 'zero', 'circuit': ['L0H1', 'L0H2']})
    """
    name, _, rest = text.partition(":")
    settings: dict[str, Any] = {}
    for part in filter(None, rest.split(",")):
        key, equals, value = part.partition("=")
        if not equals or not key:
            raise ValueError(f"probe {text!r}: expected NAME:key=value,key=value, got {part!r}")
        settings[key] = _value(value)
    return name, settings


def _value(text: str) -> Any:
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    if "+" in text:
        return [_value(part) for part in text.split("+")]
    return WORDS.get(text, text)
