"""From documents to examples: three sets by the hash of each document, packed into windows of one length, counted.

The rule. A document belongs to the set that the SHA-256 of its content says: of the range of hashes the first 0.8 are
sampling (what the potential is made of), the next 0.1 control (left for choices and controls), the last 0.1 held-out.
So equal documents are in one set, and a document stays where it is when others come or go. The documents of a set are
put one behind the other in their order, an end-of-text token before each, and cut into windows of `context` tokens;
what is left over is dropped. In a window every token but the first is predicted from those before it in the window.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from degrade.documents import context_of
from degrade.sources import Source

SETS = {"sampling": 0.8, "control": 0.9, "held-out": 1.0}
CONTEXT = 128
END = ("eos_token_id", "bos_token_id")
UNKNOWN = 0.1  # of the tokens; above that the tokenizer is not the text's


@dataclass(frozen=True, eq=False)
class Part:
    """One of the three sets.

    Attributes:
        name: "sampling", "control" or "held-out".
        documents: How many there are.
        tokens: How many tokens they have, the end-of-text tokens between them included.
        windows: Token ids, shape (windows, context).
    """

    name: str
    documents: int
    tokens: int
    windows: Tensor

    def __str__(self) -> str:
        """What it holds."""
        count, context = self.windows.shape
        return f"{self.name} {self.documents:,} documents, {self.tokens:,} tokens in {count:,} windows of {context}"


@dataclass(frozen=True, eq=False)
class Packed:
    """Documents as examples: the three sets, and how they came about."""

    name: str
    rule: str
    sampling: Part
    control: Part
    heldout: Part

    @property
    def parts(self) -> tuple[Part, Part, Part]:
        """The three sets."""
        return self.sampling, self.control, self.heldout

    def __str__(self) -> str:
        """Tokens counted, a line."""
        documents, tokens = (sum(getattr(part, name) for part in self.parts) for name in ("documents", "tokens"))
        dropped = sum(part.tokens - part.windows.numel() for part in self.parts)
        return (
            f"data {self.name}: {documents:,} documents ({self.rule}), {tokens:,} tokens;"
            f" {'; '.join(map(str, self.parts))}; {dropped:,} tokens left over"
        )


def pack(source: Source, tokenizer: Any = None, model: Any = None, context: int | None = None) -> Packed:
    """Tokenise, split and pack.

    Args:
        source: Documents.
        tokenizer: The model's, for texts.
        model: Whose context and vocabulary are not to be exceeded.
        context: Tokens a window; None: 128, or the model's context if shorter. Rows of token ids stay as they are.

    Raises:
        ValueError: if texts come without a tokenizer or with that of another language, token ids are not the model's,
            the context is longer than the model's, or a set would be empty.

    >>> rows = torch.arange(400).reshape(100, 4)
    >>> packed = pack(Source("rows", None, rows, "a row"))
    >>> sum(len(part.windows) for part in packed.parts)
    100
    """
    if source.rows is not None:
        return _rows(source, source.rows, model, context)
    length = _context(source.name, context, model)
    documents, end = _tokens(source, tokenizer)
    _check_vocabulary(source.name, {token for document in documents for token in document}, model)
    parts = []
    for name, chosen in split(source.documents or ()).items():
        stream = [token for place in chosen for token in (*end, *documents[place])]
        parts.append(_windows(source.name, name, len(chosen), stream, length))
    return Packed(source.name, source.rule, *parts)


def split(documents: Sequence[Any]) -> dict[str, list[int]]:
    """Which documents are in which set, by their content alone, in their order.

    Args:
        documents: Texts, or sequences of token ids.

    >>> parts = split([f"document {number}" for number in range(1000)])
    >>> {name: len(places) for name, places in parts.items()}
    {'sampling': 783, 'control': 104, 'held-out': 113}
    """
    shares = [_share(document) for document in documents]
    bounds = [0.0, *SETS.values()]
    return {
        name: [place for place, share in enumerate(shares) if low <= share < high]
        for name, low, high in zip(SETS, bounds[:-1], bounds[1:], strict=True)
    }


def _share(document: Any) -> float:
    """Where the hash of a document lies in its range, in [0, 1)."""
    content = document.encode() if isinstance(document, str) else np.asarray(document, dtype=np.int64).tobytes()
    return int.from_bytes(hashlib.sha256(content).digest()[:6], "big") / 2**48


def _context(name: str, context: int | None, model: Any) -> int:
    most = context_of(model)
    if context is None:
        return int(min(CONTEXT, most))
    if not 2 <= context <= most:
        raise ValueError(
            f"context={context}; expected at least 2 tokens and at most the {most:g} that the model reads: windows of"
            f" data {name!r} are examples of that length"
        )
    return context


def _tokens(source: Source, tokenizer: Any) -> tuple[list[list[int]], list[int]]:
    """Token ids of each document, and the token that goes before each: none before those that come as token ids."""
    documents: Any = source.documents
    if not isinstance(documents[0], str):
        return documents, []
    if tokenizer is None:
        raise ValueError(
            f"data {source.name!r} are text, and the model brings no tokenizer to read it with: put the tokenizer's"
            " files into the model's directory, or give token ids (.npy, .pt or .safetensors)"
        )
    ids = tokenizer(list(documents), add_special_tokens=False, verbose=False)["input_ids"]
    _check_known(source.name, tokenizer, ids)
    end = next((token for name in END if (token := getattr(tokenizer, name, None)) is not None), None)
    return ids, [] if end is None else [end]


def _check_known(name: str, tokenizer: Any, ids: list[list[int]]) -> None:
    unknown, total = getattr(tokenizer, "unk_token_id", None), sum(map(len, ids))
    share = sum(row.count(unknown) for row in ids) / max(total, 1) if unknown is not None else 0.0
    if share > UNKNOWN:
        raise ValueError(
            f"the model's tokenizer does not know {share:.0%} of the {total:,} tokens of data {name!r}; expected at"
            f" most {UNKNOWN:.0%}: give text of the kind that the model was trained on"
        )


def _check_vocabulary(name: str, used: set[int], model: Any) -> None:
    size = vocabulary_of(model)
    beyond = [token for token in sorted(used) if token < 0 or (size is not None and token >= size)]
    if beyond:
        raise ValueError(
            f"data {name!r} hold the token id {beyond[-1]}, and the model knows {size or 'those from 0 on'}:"
            " they were made with another tokenizer"
        )


def vocabulary_of(model: Any) -> int | None:
    """How many token ids a model knows; None where it does not say."""
    told = (("cfg", "d_vocab"), ("config", "vocab_size"))
    return next((size for owner, name in told if (size := getattr(getattr(model, owner, None), name, None))), None)


def _windows(source: str, name: str, documents: int, stream: list[int], length: int) -> Part:
    count = len(stream) // length
    if not count:
        raise ValueError(
            f"the {name} set of data {source!r} has {documents} documents of {len(stream)} tokens, which make no window"
            f" of {length}; expected at least one: give more documents (a tenth is held out), or a smaller context"
        )
    return Part(name, documents, len(stream), torch.tensor(stream[: count * length]).reshape(count, length))


def _rows(source: Source, rows: Tensor, model: Any, context: int | None) -> Packed:
    """Rows of token ids as they are: a row is a document and a window."""
    length, most = rows.shape[1], context_of(model)
    if length > most or context not in (None, length):
        raise ValueError(
            f"data {source.name!r} are rows of {length} tokens; expected {context or f'at most {most:g}'}: rows are"
            " used as they are, so cut them to that length, or give one long row of tokens, which is cut here"
        )
    _check_vocabulary(source.name, set(rows.unique().tolist()), model)
    parts = []
    for name, chosen in split(list(rows.numpy())).items():
        if not chosen:
            raise ValueError(
                f"the {name} set of data {source.name!r} has none of its {len(rows)} rows; expected at least one: give"
                " more rows (a tenth of them is held out)"
            )
        parts.append(Part(name, len(chosen), len(chosen) * length, rows[chosen]))
    return Packed(source.name, source.rule, *parts)
