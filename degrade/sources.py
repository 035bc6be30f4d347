"""Naming data: documents from a text file or folder, jsonl, a `datasets` directory or hub name, or a tensor file.

book.txt          a text file, cut at <|endoftext|>, or at blank lines (line ends) into pieces of 1000 characters
notes/            a folder: each text file in it, however deep, is a document; each line of its .jsonl files is one
lines.jsonl       each line is a document: its "text", or token ids in "input_ids" or "tokens"
saved/            a directory that `datasets` wrote; a name on the hub with an optional revision: the "train" split
ids.npy           token ids, also .pt and .safetensors: (documents, tokens), used as they are, or one long row
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from degrade.naming import HUB, PATIENCE, is_path

PLAIN = (".txt", ".text", ".md", ".rst", ".tex", ".html", ".csv", ".log", ".py", ".js", ".c", ".h", ".cpp", ".rs")
LINES = (".jsonl", ".ndjson")
TENSORS = (".pt", ".safetensors", ".npy")
SAVED = ("state.json", "dataset_dict.json", "dataset_info.json")
TEXT, IDS = ("text",), ("input_ids", "tokens")
END = "<|endoftext|>"
LEAST = 1000  # characters of a document that a lone text file is cut into
PIECE = 1024  # tokens of a document that one long row is cut into
FORMS = (
    "a text file or a folder of them, a .jsonl file, a directory or hub name of `datasets`, or token ids in a .npy, .pt"
    " or .safetensors file"
)


@dataclass(frozen=True, eq=False)
class Source:
    """Documents as they were found.

    Attributes:
        name: What was asked for.
        documents: Texts, or lists of token ids; None where `rows` are given.
        rows: Token ids, shape (documents, tokens), each row a document and an example as it is.
        rule: How documents were told apart, in words.
    """

    name: str
    documents: Sequence[str] | Sequence[list[int]] | None
    rows: Tensor | None
    rule: str


def read(name: str) -> Source:
    """The documents that a name stands for, in a fixed order.

    Raises:
        OSError: if it is not there, or not readable.
        ValueError: if it holds no documents, or none of a known form.
        ImportError: if the package `datasets` is needed and not installed.
    """
    path = Path(name).expanduser()
    if path.is_dir():
        saved = any((path / file).is_file() for file in SAVED)
        rule = "a file, or a line of jsonl"
        source = _dataset(name, path) if saved else Source(name, list(_folder(path)), None, rule)
    elif path.is_file():
        source = _file(name, path)
    elif is_path(name) or path.suffix in (*PLAIN, *LINES, *TENSORS):
        raise FileNotFoundError(f"data {name!r}: there is no such file or directory; expected {FORMS}")
    elif HUB.fullmatch(name):
        source = _hub(name)
    else:
        raise ValueError(f"data {name!r} is no name of data; expected {FORMS}")
    if source.rows is None and not any(len(document) for document in source.documents or ()):
        raise ValueError(f"data {name!r} hold no document that is not empty; expected {FORMS}")
    return source


def _file(name: str, path: Path) -> Source:
    if path.suffix in TENSORS:
        return _tensor(name, path)
    if path.suffix in LINES:
        return Source(name, list(_lines(path)), None, "a line of jsonl")
    text = _text(path)
    if END in text:
        return Source(name, [part for part in text.split(END) if part.strip()], None, f"what stands between {END}")
    return Source(name, list(_pieces(text)), None, f"pieces of {LEAST} characters and more, cut at blank lines")


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as fault:
        raise ValueError(
            f"data {str(path)!r} are no UTF-8 text (byte {fault.object[fault.start]:#x} at {fault.start}); expected"
            f" {FORMS}: convert the file, or leave it out of the folder"
        ) from fault


def _pieces(text: str) -> Iterator[str]:
    """Paragraphs, or lines if there is only one, put together until they have 1000 characters."""
    between = "\n\n" if "\n\n" in text.strip() else "\n"
    held = ""
    for part in text.split(between):
        held += part + between
        if len(held) >= LEAST:
            yield held
            held = ""
    if held.strip():
        yield held


def _folder(path: Path) -> Iterator[Any]:
    files = sorted(file for file in path.rglob("*") if file.is_file() and not _hidden(file, path))
    known = [file for file in files if file.suffix in (*PLAIN, *LINES)]
    if not known:
        found = ", ".join(sorted({file.suffix or file.name for file in files})) or "nothing"
        raise ValueError(
            f"data {str(path)!r} hold no text: expected files named {' '.join((*PLAIN, *LINES))}, found {found}"
        )
    for file in known:
        if file.suffix in LINES:
            yield from _lines(file)
        elif (text := _text(file)).strip():
            yield text


def _hidden(file: Path, folder: Path) -> bool:
    return any(part.startswith(".") for part in file.relative_to(folder).parts)


def _lines(path: Path) -> Iterator[Any]:
    for number, line in enumerate(_text(path).splitlines(), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except json.JSONDecodeError as fault:
            raise ValueError(f"{path}:{number} is no JSON ({fault}); expected an object a line") from fault
        if not isinstance(row, dict) or not any(_fits(key, row.get(key)) for key in (*TEXT, *IDS)):
            held = ", ".join(row) if isinstance(row, dict) else type(row).__name__
            raise ValueError(
                f'{path}:{number} holds {held}; expected an object with "text" (a string), or "input_ids" or "tokens"'
                " (token ids)"
            )
        yield next(row[key] for key in (*TEXT, *IDS) if _fits(key, row.get(key)))


def _fits(key: str, value: Any) -> bool:
    if key in TEXT:
        return isinstance(value, str)
    return isinstance(value, list) and all(type(one) is int for one in value)


def _tensor(name: str, path: Path) -> Source:
    found = _loaded(path)
    if isinstance(found, dict):
        keys = [key for key in IDS if key in found] or list(found)
        if len(keys) != 1:
            raise ValueError(f'data {name!r} hold {", ".join(map(str, keys))}; expected one tensor, or "input_ids"')
        found = found[keys[0]]
    tokens = torch.as_tensor(found)
    if tokens.is_floating_point() or tokens.is_complex() or tokens.dtype == torch.bool or tokens.ndim not in (1, 2):
        raise ValueError(
            f"data {name!r} are {tokens.dtype} of shape {tuple(tokens.shape)}; expected whole numbers, token ids of"
            " shape (documents, tokens) or (tokens,): other examples go to degrade.ladder in Python, with a loss"
        )
    if tokens.ndim == 1:
        pieces = [piece.tolist() for piece in tokens.split(PIECE)]
        return Source(name, pieces, None, f"pieces of {PIECE} tokens of one long row")
    if not tokens.numel() or tokens.shape[1] < 2:
        raise ValueError(f"data {name!r} have shape {tuple(tokens.shape)}; expected rows of at least 2 tokens")
    return Source(name, None, tokens.long(), "a row")


def _loaded(path: Path) -> Any:
    try:
        if path.suffix == ".npy":
            return np.load(path, allow_pickle=False)
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            return load_file(path)
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as fault:
        said = str(fault).strip().split("\n")[0]
        raise ValueError(f"data {str(path)!r} cannot be read as {path.suffix}: {said}") from fault


def _dataset(name: str, path: Path) -> Source:
    found = _datasets(name).load_from_disk(str(path))
    if hasattr(found, "keys"):
        if "train" not in found:
            raise ValueError(
                f"data {name!r} hold the splits {', '.join(found)}; expected one named train: give the directory of a"
                " single split"
            )
        found = found["train"]
    return _columns(name, found)


def _columns(name: str, table: Any) -> Source:
    """The text of a table, or its token ids."""
    kinds = {key: getattr(kind, "dtype", None) for key, kind in table.features.items()}
    strings = [key for key, kind in kinds.items() if kind in ("string", "large_string")]
    chosen = next((key for key in (*TEXT, *IDS) if key in table.features), strings[0] if len(strings) == 1 else None)
    if chosen is None:
        raise ValueError(
            f'data {name!r} have the columns {", ".join(table.features)}; expected "text", "input_ids" or "tokens", or'
            " a single column of strings"
        )
    return Source(name, list(table[chosen]), None, f"a row of {chosen!r}")


def _hub(name: str) -> Source:
    """A data set of the hub: from the cache of `datasets` where the hub is not to be asked."""
    library, (repo, _, revision) = _datasets(name), name.partition("@")
    from huggingface_hub import HfApi, constants

    try:
        if not constants.HF_HUB_OFFLINE:
            HfApi().dataset_info(repo, revision=revision or None, timeout=PATIENCE)
        table = library.load_dataset(repo, revision=revision or None, split="train")
    except Exception as reason:
        said = str(reason).strip().split("\n")[0]
        raise FileNotFoundError(
            f"data {name!r} are no file or directory, and the hub does not give them ({said}); expected {FORMS}"
        ) from reason
    return _columns(name, table)


def _datasets(name: str) -> Any:
    try:
        import datasets
    except ImportError as cause:
        raise ImportError(
            f"data {name!r} need the package datasets, which is not installed: pip install 'natural-degradation[data]'"
        ) from cause
    return datasets
