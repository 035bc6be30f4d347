"""Plug-ins by entry point: probes, studies and organisms, the package's own found in the same way as anyone's.

Groups: `degrade.probes`, `degrade.studies`, `degrade.organisms`. Nothing is imported until it is asked for.
"""

from collections.abc import Iterable
from importlib.metadata import EntryPoint, entry_points
from typing import Any

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
                f"two packages register {kind} {point.name!r}: {other.value} and {point.value}; rename one of them"
            )
    return table


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
    except Exception as cause:
        raise PluginError(f"{kind} {name!r} ({known[name].value}) does not load: {cause}") from cause
