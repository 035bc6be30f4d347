"""Plug-ins by entry point: probes, studies and organisms, the package's own found in the same way as anyone's.

Groups: `degrade.probes`, `degrade.studies`, `degrade.organisms`. Nothing is imported until it is asked for.
"""

import inspect
from collections.abc import Callable, Collection, Iterable, Mapping
from importlib.metadata import EntryPoint, entry_points
from typing import Any, get_type_hints

GROUPS = ("degrade.probes", "degrade.studies", "degrade.organisms")


class PluginError(ImportError):
    """A plug-in that cannot be used; its cause is chained."""


def installed(kind: str) -> dict[str, EntryPoint]:
    """Entry points of a kind ('probes', 'studies', 'organisms') by name, in alphabetical order.

    Raises:
        PluginError: if two distributions claim one name.
    """
    return by_name(kind, entry_points(group=f"degrade.{kind}"))


def by_name(kind: str, found: Iterable[EntryPoint]) -> dict[str, EntryPoint]:
    """Entry points keyed by name; a name claimed for two different objects is refused."""
    table: dict[str, EntryPoint] = {}
    for point in sorted(found, key=lambda point: (point.name, point.value)):
        other = table.setdefault(point.name, point)
        if other.value != point.value:
            raise PluginError(
                f"two packages register {kind} {point.name!r}: {_origin(other)} and {_origin(point)}; rename one of "
                "them, or uninstall one package"
            )
    return table


def _origin(point: EntryPoint) -> str:
    """What an entry point loads, and the distribution that it is from."""
    return point.value if point.dist is None else f"{point.value} (from {point.dist.name})"


def find(kind: str, name: str) -> Any:
    """Load one plug-in.

    Raises:
        ValueError: for an unknown name, listing the known ones.
        PluginError: if it is registered but does not import; the cause is chained.
    """
    known = installed(kind)
    if name not in known:
        raise ValueError(f"unknown name {name!r} among the {kind}; the known ones are: {', '.join(known) or 'none'}")
    try:
        return known[name].load()
    except ModuleNotFoundError as cause:
        raise PluginError(
            f"{kind} {name!r}, {_origin(known[name])}, needs the module {cause.name!r}, which is not installed"
        ) from cause
    except Exception as cause:
        raise PluginError(f"{kind} {name!r}, {_origin(known[name])}, does not load: {cause!r}") from cause


def check_settings(name: str, build: Callable[..., Any], settings: Mapping[str, Any]) -> dict[str, Any]:
    """The settings as `build(subject, *, key: type = default)` declares them, or all that is wrong with them at once.

    Text is read as the declared type, and a single value as a list of one where a list is declared.

    Args:
        name: The plug-in's name, for messages.
        build: Its constructor; settings are its keyword-only parameters.
        settings: What was asked for.

    Returns:
        The settings, converted.

    Raises:
        ValueError: naming every unknown, missing or unfit setting, with what is expected.

    >>> def build(subject, *, n: int = 8, heads: list[str] | None = None): ...
    >>> check_settings("mine", build, {"n": "16", "heads": "L0H1"})
    {'n': 16, 'heads': ['L0H1']}
    """
    declared = inspect.signature(build).parameters.values()
    if any(parameter.kind is parameter.VAR_KEYWORD for parameter in declared):
        return dict(settings)
    known = {parameter.name: parameter for parameter in declared if parameter.kind is parameter.KEYWORD_ONLY}
    read, faults = _converted(known, _hints(build), settings)
    missing = [key for key, parameter in known.items() if parameter.default is parameter.empty and key not in settings]
    faults += [f"{key}= must be given" for key in missing]
    if faults:
        raise ValueError(f"{name}: {'; '.join(faults)}")
    return read


def _converted(
    known: Collection[str], hints: Mapping[str, Any], settings: Mapping[str, Any]
) -> tuple[dict[str, Any], list[str]]:
    """Settings that fit, and a sentence for each that does not."""
    from pydantic import ValidationError

    read: dict[str, Any] = {}
    faults = []
    for key, value in settings.items():
        if key not in known:
            faults.append(f"no setting {key!r} (its settings are {', '.join(known) or 'none'})")
            continue
        try:
            read[key] = _read(hints.get(key, Any), value)
        except ValidationError as error:
            expected = "; ".join(sorted({found["msg"] for found in error.errors()}))
            faults.append(f"{key}={value!r} does not fit: {expected}")
    return read, faults


def _hints(build: Callable[..., Any]) -> dict[str, Any]:
    """Declared types of the parameters; none where they cannot be resolved, and then anything goes."""
    try:
        return get_type_hints(inspect.unwrap(getattr(build, "__func__", build)))
    except (NameError, TypeError):
        return {}


def _read(hint: Any, value: Any) -> Any:
    """The value as the declared type, or as a list of one if only a list will do."""
    from pydantic import TypeAdapter, ValidationError

    declared = TypeAdapter(hint)
    try:
        return declared.validate_python(value)
    except ValidationError as reason:
        try:
            return declared.validate_python([value])
        except ValidationError:
            raise reason from None
