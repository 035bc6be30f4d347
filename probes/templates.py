"""Prompts of indirect object identification for any tokenizer: "When Mary and John met, John spoke to".

Wang et al. 2022 (arXiv 2211.00593), section 2 and appendix E.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from probes.corpus import Pairs

NAMES = (
    *("Mary", "John", "Tom", "James", "Dan", "Sarah", "Paul", "Anna", "Mark", "Alice", "David", "Laura"),
    *("Peter", "Emma", "Jack", "Lisa", "Adam", "Kate", "Simon", "Rachel"),
)
PLACES = ("store", "garden", "restaurant", "school", "hospital", "office", "house", "station")
OBJECTS = ("ring", "drink", "bone", "computer", "necklace", "book", "key", "letter")
TEMPLATES = (
    "Then, {A} and {B} went to the {place}. {S} gave a {object} to",
    "When {A} and {B} got a {object} at the {place}, {S} decided to give it to",
    "Afterwards, {A} and {B} had a lot of fun at the {place}. {S} gave a {object} to",
    "After {A} and {B} went to the {place}, {S} gave a {object} to",
    "While {A} and {B} were working at the {place}, {S} gave a {object} to",
    "The {place} was where {A} and {B} met. {S} wanted to give a {object} to",
)


class Prompts(NamedTuple):
    """n prompts in which IO is named once and S twice; the right continuation is IO.

    Attributes:
        tokens: Token ids, shape (n, T); what stands behind `end` is filling.
        corrupted: The same prompts with other names, shape (n, T): what a mean ablation averages over.
        io: Position of IO, shape (n,).
        s1: First position of S, shape (n,).
        s2: Second position of S, shape (n,).
        end: Position at which the next name is predicted, shape (n,).
        template: What the prompt is written in, order of the names included, shape (n,), str.
    """

    tokens: Tensor
    corrupted: Tensor
    io: Tensor
    s1: Tensor
    s2: Tensor
    end: Tensor
    template: np.ndarray


class _Text(NamedTuple):
    """One encoded text: ids, the positions of the names in the order of the text, and of the last word."""

    ids: list[int]
    names: list[int]
    end: int


def single_tokens(tokenizer: Any, names: Sequence[str], template: str = "Then, {A} and") -> list[str]:
    """Those names that are one known token in the middle of a sentence.

    Args:
        tokenizer: A fast Hugging Face tokenizer.
        names: Candidates.
        template: Sentence with a place {A} for the name.
    """
    return [name for name in names if _encoded(tokenizer, template, {"A": name}) is not None]


def prompts(
    tokenizer: Any,
    n: int,
    seed: int = 0,
    names: Sequence[str] = NAMES,
    templates: Sequence[str] = TEMPLATES,
    places: Sequence[str] = PLACES,
    objects: Sequence[str] = OBJECTS,
) -> Prompts:
    """`n` prompts, half of them naming IO before S and half after; corrupted ones with three other names (p_ABC).

    Args:
        tokenizer: A fast Hugging Face tokenizer.
        n: Prompts.
        seed: Of names, places and objects; the same seed gives the same prompts.
        names: Names to draw from; those of more than one token are left out.
        templates: Texts with the places {A}, {B} for the two names, {S} for the second mention, and, if wanted, {place}
            and {object}; the text ends before the name that is to be predicted.
        places: Words for {place}.
        objects: Words for {object}.

    Returns:
        The prompts.

    Raises:
        ValueError: If fewer than five names are single tokens, or the tokenizer does not know a template's words.
    """
    usable = single_tokens(tokenizer, names, templates[0].split("{B}")[0])
    if len(usable) < 5:
        raise ValueError(
            f"IOI needs five names that are single tokens of this tokenizer (two and three to replace them), and of "
            f"{len(names)} given only {usable} are: give names=, and templates= in its vocabulary"
        )
    rng = np.random.default_rng(np.random.SeedSequence(seed))
    rows = [_pair(tokenizer, str(templates[i % len(templates)]), i // len(templates) % 2, usable, places, objects, rng)
            for i in range(n)]  # fmt: skip
    return _padded(rows)


Row = tuple[_Text, _Text, int, str]


def _pair(
    tokenizer: Any, template: str, swapped: int, names: Sequence[str], places: Sequence[str], objects: Sequence[str],
    rng: np.random.Generator,
) -> Row:  # fmt: skip
    """A prompt, its corruption, and whether IO is named behind S."""
    io, subject, *others = (names[i] for i in rng.permutation(len(names))[:5])
    words = {"place": str(rng.choice(places)), "object": str(rng.choice(objects))}
    first = (subject, io) if swapped else (io, subject)
    clean = _encoded(tokenizer, template, {"A": first[0], "B": first[1], "S": subject}, words)
    corrupted = _encoded(tokenizer, template, dict(zip("ABS", others, strict=True)), words)
    if clean is None or corrupted is None or len(clean.ids) != len(corrupted.ids):
        raise ValueError(
            f"the template {template!r} with the words {words} does not keep its names single known tokens under this "
            "tokenizer: give templates=, places= and objects= in its vocabulary"
        )
    return clean, corrupted, swapped, template


def _encoded(tokenizer: Any, template: str, names: dict[str, str], words: dict[str, str] | None = None) -> _Text | None:
    """The text of a template, or None if a name is not one token or a token is unknown."""
    text, spans = _filled(template, names, words or {})
    try:
        given = tokenizer(text, return_offsets_mapping=True)
    except NotImplementedError as error:
        raise ValueError(f"IOI prompts need a fast tokenizer, which says where each token stands: {error}") from error
    offsets = given["offset_mapping"]
    places = [_place(offsets, span) for span in spans]
    if None in places or tokenizer.unk_token_id in given["input_ids"]:
        return None
    end = max(i for i, (_, stop) in enumerate(offsets) if stop >= len(text.rstrip()))
    return _Text(list(given["input_ids"]), [place for place in places if place is not None], end)


def _filled(template: str, names: dict[str, str], words: dict[str, str]) -> tuple[str, list[tuple[int, int]]]:
    """The text, and the character span of each name in the order of the text."""
    text, spans = "", []
    for piece in template.replace("}", "{").split("{"):
        if piece in names:
            spans.append((len(text), len(text) + len(names[piece])))
        text += names.get(piece, words.get(piece, piece))
    return text, spans


def _place(offsets: Sequence[tuple[int, int]], span: tuple[int, int]) -> int | None:
    """The one token that covers a span, a space before it allowed."""
    touching = [i for i, (start, stop) in enumerate(offsets) if start < span[1] and stop > span[0]]
    if len(touching) != 1:
        return None
    start, stop = offsets[touching[0]]
    return touching[0] if stop == span[1] and span[0] - 1 <= start <= span[0] else None


def _padded(rows: Sequence[Row]) -> Prompts:
    """Rows of one length: the last token again and again, which a causal model does not see at `end`."""
    length = max(len(clean.ids) for clean, *_ in rows)

    def stacked(texts: Sequence[_Text]) -> Tensor:
        return torch.tensor([text.ids + [text.ids[-1]] * (length - len(text.ids)) for text in texts])

    swapped = np.array([order for _, _, order, _ in rows])
    at = np.array([clean.names for clean, *_ in rows])  # A, B, S in the order of the text
    every = np.arange(len(rows))
    io, s1, s2 = (torch.from_numpy(place) for place in (at[every, swapped], at[every, 1 - swapped], at[:, 2]))
    template = np.array([f"{'BABA' if order else 'ABBA'}: {text}" for _, _, order, text in rows])
    end = torch.tensor([clean.end for clean, *_ in rows])
    clean, corrupted = stacked([row[0] for row in rows]), stacked([row[1] for row in rows])
    return Prompts(clean, corrupted, io, s1, s2, end, template)


def from_pairs(pairs: Pairs) -> Prompts:
    """Prompts from an organism's pairs, whose answer is IO and whose wrong answer is S.

    Raises:
        ValueError: If in some clean prompt the answer does not stand once and the wrong one twice; it is named.
    """
    reaches = torch.arange(pairs.clean.shape[1]) <= pairs.position[:, None]
    is_io = (pairs.clean == pairs.answer[:, None]) & reaches
    is_s = (pairs.clean == pairs.wrong[:, None]) & reaches
    unlike = (is_io.sum(1) != 1) | (is_s.sum(1) != 2)
    if unlike.any():
        first = int(unlike.nonzero()[0])
        raise ValueError(
            f"these pairs are no IOI prompts: in prompt {first} the answer stands {int(is_io[first].sum())} times and "
            f"the wrong answer {int(is_s[first].sum())} times before the answer position, expected once and twice"
        )
    io, s1 = is_io.int().argmax(1), is_s.int().argmax(1)
    s2 = is_s.shape[1] - 1 - is_s.flip(1).int().argmax(1)
    forms = torch.stack([io, s1, s2, pairs.position], 1).tolist()
    return Prompts(pairs.clean, pairs.corrupted, io, s1, s2, pairs.position, np.array([str(form) for form in forms]))
