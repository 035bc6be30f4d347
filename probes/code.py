"""Code: does the model know which bracket is open, how far a line is indented, and how frequent its tokens are?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple, Self

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from probes.corpus import check_tokens
from probes.hooks import logits
from probes.probe import Claim, Measure, Subject, known_settings, positive
from probes.tables import stack

BATCH = 32  # rows a forward pass: whole laws of the next token are held
FEWEST = 8  # questions of a choice, below which it is not asked about
TOGETHER = 4  # rows whose predictions are averaged for one reading of the token frequencies
OPENERS = {"(": ")", "[": "]", "{": "}"}
CLOSERS = tuple(OPENERS.values())


class Questions(NamedTuple):
    """Choices between classes of next tokens.

    Attributes:
        row: Row of the text, shape (k,).
        position: p: the logits at p predict, shape (k,).
        right: The right class, shape (k,).
        classes: Class of each token id, -1 for those in none, shape (V,).
    """

    row: np.ndarray
    position: np.ndarray
    right: np.ndarray
    classes: np.ndarray

    def take(self, chosen: np.ndarray) -> Questions:
        """Some of the questions."""
        return Questions(self.row[chosen], self.position[chosen], self.right[chosen], self.classes)


@dataclass(frozen=True, eq=False)
class Code:
    """Choices that source asks for, and the frequencies of its tokens.

    Rows, each with a `behaviour`, an `example` and a `chance`:

    - `choice`: 1 if, of the classes of tokens that are in question, the right one has the largest probability (summed
      over its tokens), else 0. "bracket closing": the next token begins with a closing bracket; classes are the three
      brackets, the right one that of the innermost open one (text in strings and comments is read as any other).
      "indentation": the next token is a line break with the spaces behind it; classes are their numbers. As many
      questions of each class as there are, at most n; the chance is the share of the most frequent class among them.
    - `frequencies`: KL(p || q), p the given frequencies of tokens and q the model's law of the next token averaged over
      the positions of four rows, in nats; behaviour "token frequencies"; its chance is that of a uniform q,
      log V - H(p).

    Attributes:
        tokens: Token ids of text, shape (r, T).
        pieces: Text of each token id, shape (V,).
        frequencies: p, shape (V,), sums to 1.
        n: Most questions of a class.
        seed: Of the drawing among more.

    >>> probe = Code(torch.tensor([[0, 2, 1]] * 8 + [[3, 2, 4]] * 8), ["(", ")", "x", "[", "]"], np.full(5, 0.2))
    >>> names = torch.nn.Embedding.from_pretrained(torch.zeros(5, 5)).eval()
    >>> probe(names).groupby("behaviour")["value"].mean().round(6).abs().to_dict()
    {'bracket closing': 0.5, 'token frequencies': 0.0}
    """

    name: ClassVar[str] = "code"
    needs: ClassVar[str] = "a tokenizer; corpus.training, corpus.heldout"
    measures: ClassVar[Mapping[str, Measure]] = {
        "choice": Measure(chance=None, higher=True, binary=True, unit="share"),
        "frequencies": Measure(chance=None, higher=False, binary=False, unit="nats"),
    }

    tokens: Tensor
    pieces: Sequence[str]
    frequencies: np.ndarray
    n: int = 32
    seed: int = 0

    def __post_init__(self) -> None:
        """Refuse text without a question, and tokens without a text or a frequency."""
        check_tokens("tokens", self.tokens)
        if len(self.frequencies) != len(self.pieces) or int(self.tokens.max()) >= len(self.pieces):
            raise ValueError(
                f"{len(self.pieces)} pieces, {len(self.frequencies)} frequencies and token ids up to"
                f" {int(self.tokens.max())}; expected a piece and a frequency for every token id"
            )
        if not self.questions():
            raise ValueError(
                f"the {len(self.tokens)} rows ask for no choice: expected at least {FEWEST} questions in each of two"
                " classes of closing brackets or of indentations: give more rows, or text that is code"
            )

    @classmethod
    @known_settings
    def build(cls, subject: Subject, *, n: int = 32, rows: int = 96, seed: int = 0) -> Self:
        """Questions about held-out text of the subject, with the frequencies of tokens in its training text.

        Args:
            subject: With a tokenizer and a corpus of text.
            n: Most questions of a class.
            rows: Held-out rows.
            seed: Of the rows and of the questions.

        Raises:
            ValueError: If the subject has no tokenizer, its corpus lacks `training` or `heldout`, its text asks for no
                choice, or a setting is unknown or out of range.
        """
        corpus = subject.corpus(cls.name, "training", "heldout")
        if subject.tokenizer is None:
            raise ValueError(f"probe {cls.name!r} reads what tokens say and needs a tokenizer: Subject(tokenizer=...)")
        pieces = [subject.tokenizer.decode([token]) for token in range(len(subject.tokenizer))]
        counts = np.bincount(corpus.training().tokens[:, 1:].numpy().ravel(), minlength=len(pieces))
        tokens = corpus.heldout(positive(cls.name, "rows", rows), seed).tokens
        return cls(tokens, pieces, counts / counts.sum(), positive(cls.name, "n", n), seed)

    def claim(self, least: float = 0.8) -> Claim:
        """The innermost open bracket, or else the indentation, is chosen rightly at `least`.

        Args:
            least: Smallest share of right choices.
        """
        asked = next(iter(self.questions()))
        statement = f"{asked}: the right one of the choices has the largest probability at >= {least}"
        return Claim(self, statement, lambda table: _mean(table, asked) >= least)

    def questions(self) -> dict[str, Questions]:
        """The questions of each behaviour that the text asks for often enough."""
        rows = self.tokens.cpu().numpy()
        found = {"bracket closing": brackets(rows, self.pieces), "indentation": indentations(rows, self.pieces)}
        drawn = {name: _balanced(questions, self.n, self.seed) for name, questions in found.items()}
        return {name: questions for name, questions in drawn.items() if len(questions.row)}

    @torch.no_grad()
    def __call__(self, model: Any) -> pd.DataFrame:
        """Ask; see the class for the rows."""
        asked, size = self.questions(), len(self.pieces)
        mass: dict[str, list[np.ndarray]] = {name: [] for name in asked}
        means = []
        for start in range(0, len(self.tokens), BATCH):
            law = logits(model, self.tokens[start : start + BATCH])[..., :size].softmax(-1).cpu()
            means.append(law[:, :-1].double().mean(1).numpy())
            for name, questions in asked.items():
                here = (questions.row >= start) & (questions.row < start + BATCH)
                mass[name].append(law[questions.row[here] - start, questions.position[here]].double().numpy())
        tables = [_chosen(name, asked[name], np.concatenate(parts)) for name, parts in mass.items()]
        return stack([*tables, self._frequencies(np.concatenate(means))])

    def _frequencies(self, means: np.ndarray) -> pd.DataFrame:
        """KL(p || q) of groups of rows, from the mean prediction of each row, shape (r, V)."""
        groups = np.array_split(np.arange(len(means)), max(1, len(means) // TOGETHER))
        p = self.frequencies
        seen = p > 0
        entropy = -float(p[seen] @ np.log(p[seen]))
        laws = np.stack([means[group].mean(0) for group in groups])
        kl = -np.log(np.maximum(laws[:, seen], np.finfo(float).tiny)) @ p[seen] - entropy
        keys = {"example": np.arange(len(kl)), "behaviour": "token frequencies", "chance": np.log(len(p)) - entropy}
        return pd.DataFrame({"measure": "frequencies", "value": kl, **keys})


def brackets(rows: np.ndarray, pieces: Sequence[str]) -> Questions:
    """Where the next token begins with the bracket that closes the innermost one that the row has opened.

    >>> brackets(np.array([[0, 2, 1, 1]]), ["(", ")", "x"])[:3]
    (array([0]), array([1]), array([0]))
    """
    heads = [piece.lstrip(" ")[:1] for piece in pieces]
    classes = np.array([CLOSERS.index(head) if head in CLOSERS else -1 for head in heads])
    found = []
    for row, line in enumerate(rows.tolist()):
        open_: list[str] = []
        for t, token in enumerate(line):
            if t and classes[token] >= 0 and open_ and open_[-1] == heads[token]:
                found.append((row, t - 1, classes[token]))
            _read(pieces[token], open_)
    return _questions(found, classes)


def _read(piece: str, open_: list[str]) -> None:
    """Keep the list of brackets that have to be closed, innermost last; a closing one that fits none is passed over."""
    for letter in piece:
        if letter in OPENERS:
            open_.append(OPENERS[letter])
        elif open_ and letter == open_[-1]:
            open_.pop()


def indentations(rows: np.ndarray, pieces: Sequence[str]) -> Questions:
    r"""Where the next token is nothing but line breaks and spaces behind them: its class is the number of spaces.

    Asked where the row has such a token before, so that there is a line to align with.

    >>> indentations(np.array([[1, 0, 2, 0, 1]]), ["x", "\n", "\n   "])[:3]
    (array([0, 0]), array([1, 3]), array([3, 0]))
    """
    classes = np.array([_spaces(piece) for piece in pieces])
    breaks = classes[rows] >= 0
    before = np.cumsum(breaks, axis=1)[:, :-1] > 0
    row, position = np.nonzero(breaks[:, 1:] & before)
    return Questions(row, position, classes[rows[row, position + 1]], classes)


def _spaces(piece: str) -> int:
    """Spaces behind the last line break of a token that is nothing else; -1 for any other token."""
    return len(piece) - 1 - piece.rindex("\n") if piece[:1] == "\n" and not piece.strip("\n ") else -1


def _questions(found: list[tuple[int, int, int]], classes: np.ndarray) -> Questions:
    row, position, right = np.array(found, dtype=np.int64).reshape(-1, 3).T
    return Questions(row, position, right, classes)


def _balanced(questions: Questions, n: int, seed: int) -> Questions:
    """At most n questions of each class that is asked for often enough; none if that leaves fewer than two classes."""
    kinds, counts = np.unique(questions.right, return_counts=True)
    kinds = kinds[counts >= FEWEST]
    if len(kinds) < 2:
        return questions.take(np.empty(0, dtype=np.int64))
    rng = np.random.default_rng(np.random.SeedSequence(seed))
    parts = [rng.permutation(np.flatnonzero(questions.right == kind))[:n] for kind in kinds]
    return questions.take(np.sort(np.concatenate(parts)))


def _chosen(name: str, questions: Questions, law: np.ndarray) -> pd.DataFrame:
    """Whether the right one of the classes in question has the largest mass, from laws of shape (k, V)."""
    kinds, counts = np.unique(questions.right, return_counts=True)
    mass = np.stack([law[:, questions.classes == kind].sum(1) for kind in kinds], axis=1)
    right = kinds[mass.argmax(1)] == questions.right
    keys = {"example": np.arange(len(right)), "behaviour": name, "chance": counts.max() / counts.sum()}
    return pd.DataFrame({"measure": "choice", "value": right.astype(float), **keys})


def _mean(table: pd.DataFrame, behaviour: str) -> float:
    return float(table.loc[table["behaviour"] == behaviour, "value"].mean())
