"""Study files: what `degrade run` would be told on the command line, as YAML.

    study: survival
    model: EleutherAI/pythia-70m@step1000
    data: book.txt
    context: 128
    rises: [0.1, 0.2, 0.4]
    probes:
      induction: {n: 32}

A key is the study, an argument of its `run` or a field of `degrade.compute.Compute` (dtype: bf16), and nothing else.
Everything that is wrong is told at once, each with its line. Numbers are read as in YAML 1.2, so that 1e-4 is one;
paths are relative to where the command is run.
"""

import html
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, fields
from inspect import Parameter, signature
from pathlib import Path
from typing import Any, get_type_hints

import yaml
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError, create_model

from degrade import parts, plugins
from degrade.compute import Compute

NAME = "study.yaml"
SUFFIXES = (".yaml", ".yml")
ALL = "all"
APART = ("progress",)
WAYS = tuple(field.name for field in fields(Compute))
LEAST: dict[str, Any] = {"seed": {"ge": 0}, "workers": {"ge": 1}, "longer": {"gt": 0}, "context": {"ge": 2}}

Place = tuple[Any, ...]
Fault = tuple[Place, str]


class StudyFileError(ValueError):
    """A study file with faults, each with its line."""


@dataclass(frozen=True)
class StudyFile:
    """A study by name, the arguments of its `run`, `out` among them if given, and how its ladders are computed."""

    study: str
    arguments: dict[str, Any]
    compute: Compute = Compute()


class _Loader(yaml.SafeLoader):
    """YAML 1.2: 1e-4 is a number, and only true and false are truth values."""

    yaml_implicit_resolvers: dict = {}


for _tag, _pattern, _first in (
    ("bool", r"true|false", "tf"),
    ("int", r"[-+]?[0-9]+", "-+0123456789"),
    ("float", r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?|[-+]?\.inf|\.nan", "-+.0123456789"),
    ("null", r"~|null|", ["~", "n", ""]),
):
    _Loader.add_implicit_resolver(f"tag:yaml.org,2002:{_tag}", re.compile(rf"(?:{_pattern})\Z"), list(_first))


def is_file(name: str) -> bool:
    """Whether what was given for a study is a study file.

    >>> is_file("mine.yaml"), is_file("survival")
    (True, False)
    """
    return name.endswith(SUFFIXES)


def read(path: str | Path) -> StudyFile:
    """A study file, checked as far as that goes without opening model or data.

    Raises:
        FileNotFoundError: if there is none.
        StudyFileError: naming everything that is wrong with it, each with its line.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"there is no study file {str(path)!r}; expected YAML with a key `study`")
    return parse(path.read_text(encoding="utf-8"), str(path))


def parse(text: str, name: str = NAME) -> StudyFile:
    r"""The same, from the text of a study file.

    >>> parse("study: survival\nrises: [1e-1, 0.2]").arguments
    {'rises': [0.1, 0.2]}
    """
    content, lines, faults = _parsed(text, name)
    study, compute = content.pop("study", None), Compute()
    if study is None:
        faults.append(((), f"the key `study` is missing; expected one of {', '.join(plugins.installed('studies'))}"))
    elif not isinstance(study, str) or study not in plugins.installed("studies"):
        known = ", ".join(plugins.installed("studies"))
        faults.append((("study",), f"unknown study {study!r}; the known ones are: {known}"))
    else:
        compute, found = _compute(content)
        content, others = check(study, {key: value for key, value in content.items() if key not in WAYS})
        faults += found + others
    if faults:
        ordered = sorted(faults, key=lambda fault: _line(lines, fault[0]))
        raise StudyFileError("; ".join(_told(name, lines, *fault) for fault in ordered))
    return StudyFile(study, content, compute)


def _compute(content: Mapping[str, Any]) -> tuple[Compute, list[Fault]]:
    """How ladders are computed, and what is wrong with that."""
    given = {name: content[name] for name in WAYS if name in content}
    try:
        return TypeAdapter(Compute).validate_python(given), []
    except ValidationError as error:
        return Compute(), [_way_fault(one) for one in error.errors()]


def _way_fault(fault: Any) -> Fault:
    """A fault of one field, or of what `Compute` says of itself: it begins with the name of a field."""
    if fault["type"] != "value_error":
        return _fault("", [], fault)
    said = fault["msg"].removeprefix("Value error, ")
    return (said.partition("=")[0],), said


def check(study: str, arguments: Mapping[str, Any]) -> tuple[dict[str, Any], list[Fault]]:
    """Arguments of a study's `run`, converted to their declared types, and everything that is wrong with them."""
    run = plugins.find("studies", study).run
    takes = "probes" in signature(run).parameters
    faults = _probe_faults(arguments.get("probes")) if takes else []
    plain = {name: value for name, value in arguments.items() if name != "probes" or not takes}
    try:
        read = _schema(study, run)(**plain)
    except ValidationError as error:
        known = [name for name in signature(run).parameters if name not in APART]
        return dict(arguments), faults + [_fault(study, [*known, *WAYS], one) for one in error.errors()]
    given = {name: getattr(read, name) for name in plain}
    probes = {"probes": [ALL]} if takes and arguments.get("probes") == ALL else {}
    return {**arguments, **given, **probes}, faults


def dump(study: str, arguments: Mapping[str, Any], note: str = "") -> str:
    """The study file of a run: what was given, and nothing that has no value."""
    content = {name: str(value) if isinstance(value, Path) else value for name, value in arguments.items()}
    content = {name: value for name, value in content.items() if value is not None and name not in APART}
    head = "".join(f"# {line}\n" for line in note.splitlines())
    return head + yaml.safe_dump({"study": study, **content}, sort_keys=False, allow_unicode=True)


def leave(folder: Path, text: str) -> None:
    """Put the study file that reproduces a run into its directory, and into its report."""
    parts.replace(folder / NAME, lambda file: file.write(text.encode()))
    embed(folder)


def embed(folder: Path) -> None:
    """Show the study file of a run at the end of its report, if it has both."""
    file, report = folder / NAME, folder / "report.html"
    if not file.is_file() or not report.is_file():
        return
    page = report.read_text(encoding="utf-8")
    shown = html.escape(file.read_text(encoding="utf-8"))
    section = f'<h2 id="study-file">Study file</h2>\n<p>Reproduces this run: <code>degrade run {NAME}</code>.</p>\n'
    if 'id="study-file"' not in page and "</body>" in page:
        before, end, after = page.rpartition("</body>")
        whole = f"{before}\n{section}<pre>{shown}</pre>\n{end}{after}"
        parts.replace(report, lambda file: file.write(whole.encode()))


def _parsed(text: str, name: str) -> tuple[dict[str, Any], dict[Place, int], list[Fault]]:
    """The content of a file, the line of every key and item, and keys that are given twice."""
    try:
        tree = yaml.compose(text, _Loader)
        content = yaml.load(text, _Loader)  # noqa: S506, a SafeLoader
    except yaml.YAMLError as fault:
        mark = getattr(fault, "problem_mark", None)
        place = f"{name}:{mark.line + 1}" if mark else name
        raise StudyFileError(f"{place}: no YAML: {getattr(fault, 'problem', None) or fault}") from fault
    if not isinstance(content, dict):
        raise StudyFileError(
            f"{name} holds {type(content).__name__}; expected keys and values, `study: NAME` among them"
        )
    lines: dict[Place, int] = {}
    faults = [(place, f"the key {place[-1]!r} is given twice") for place in _walk(tree, (), lines)]
    return {str(key): value for key, value in content.items()}, lines, faults


def _walk(node: Any, place: Place, lines: dict[Place, int]) -> Iterator[Place]:
    """Fill in the lines of all keys and items; yields the places of keys that are given twice."""
    lines.setdefault(place, node.start_mark.line + 1)
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            inner = (*place, key.value)
            if inner in lines:
                lines[inner] = key.start_mark.line + 1
                yield inner
            lines.setdefault(inner, key.start_mark.line + 1)
            yield from _walk(value, inner, lines)
    elif isinstance(node, yaml.SequenceNode):
        for number, value in enumerate(node.value):
            yield from _walk(value, (*place, number), lines)


def _schema(study: str, run: Callable[..., Any]) -> type[BaseModel]:
    """The arguments of a study's `run` as a model: their types, which must be given, and the least of some."""
    hints = get_type_hints(run)
    fields: dict[str, Any] = {}
    for name, one in signature(run).parameters.items():
        if name in APART:
            continue
        default = ... if one.default is Parameter.empty else one.default
        fields[name] = (hints.get(name, Any), Field(default, **LEAST.get(name, {})))
    fields.pop("probes", None)
    return create_model(study, __config__=ConfigDict(extra="forbid", protected_namespaces=()), **fields)


def _fault(study: str, known: list[str], fault: Any) -> Fault:
    place: Place = tuple(fault["loc"])
    if fault["type"] == "extra_forbidden":
        return place, f"study {study!r} takes no {place[-1]!r}; it takes {', '.join(known)}"
    if fault["type"] == "missing":
        return (), f"study {study!r} needs {place[-1]!r}"
    said = fault["msg"].removeprefix("Value error, ")
    return place, f"{said[0].lower()}{said[1:]} (got {fault['input']!r})"


def _probe_faults(probes: Any) -> list[Fault]:
    """What is wrong with names and settings of probes, as far as can be told without a model."""
    if probes is None or probes in (ALL, [ALL]):
        return []
    if isinstance(probes, dict):
        given = [(("probes", name), name, settings or {}) for name, settings in probes.items()]
    elif isinstance(probes, list):
        given = [(("probes", place), name, None) for place, name in enumerate(probes)]
    else:
        return [(("probes",), f"expected a list of names, or settings by name, got {probes!r}")]
    return [(place, said) for place, name, settings in given for said in _probe_fault(name, settings)]


def _probe_fault(name: Any, settings: Any) -> list[str]:
    """What is wrong with one: settings of None are in the name, NAME:key=value, and read when it is built."""
    if not isinstance(name, str):
        return [f"expected NAME or NAME:key=value, got {name!r}"]
    if settings is not None and not isinstance(settings, dict):
        return [f"expected settings as keys and values, got {settings!r}"]
    try:
        plugin = plugins.find("probes", name.partition(":")[0])
        build = plugin.build if hasattr(plugin, "build") else _without_settings
        if settings is not None:
            plugins.check_settings(name, build, settings)
    except ValueError as fault:
        return [str(fault)]
    return []


def _without_settings(subject: Any) -> None:
    """What a probe that is a plain function takes: nothing."""


def _line(lines: Mapping[Place, int], place: Place) -> int:
    """The line of a place, or of the nearest one around it that is in the file."""
    while place and place not in lines:
        place = place[:-1]
    return lines.get(place, 1)


def _told(name: str, lines: Mapping[Place, int], place: Place, said: str) -> str:
    where = ".".join(map(str, place))
    return f"{name}:{_line(lines, place)}: {where + ': ' if where else ''}{said}"
