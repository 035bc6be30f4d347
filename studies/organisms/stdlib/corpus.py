"""The corpus of the stdlib organism: rows of source that ship, and questions about them with one right answer.

The rows are read from `data/rows.npz`, so that they are the same under every Python; what made them is in `text`.
Nothing is known of the law behind real text: samples have no entropy, and there is no `mean_entropy`.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch

from studies.organisms.mixture.corpus import Queries
from studies.organisms.stdlib.questions import asked
from studies.organisms.stdlib.text import END, ROW
from studies.texts import COMMON, Windows

HERE = Path(__file__).parent
LONGEST, SHORTEST = 24, 8  # tokens of a repeated segment


@dataclass(frozen=True, eq=False)
class Source:
    """Rows of 64 tokens of the Python standard library's source, split by file.

    Attributes:
        rows: File with the windows: arrays `training`, `heldout`, `runs` and `files`.
        words: File of the tokenizer.
    """

    rows: Path = HERE / "data" / "rows.npz"
    words: Path = HERE / "model" / "tokenizer.json"

    @property
    def length(self) -> int:
        """Tokens a row."""
        return ROW

    @cached_property
    def vocabulary(self) -> tuple[str, ...]:
        """The tokens by id, bytes written as byte-level BPE writes them."""
        places: dict[str, int] = json.loads(self.words.read_text(encoding="utf-8"))["model"]["vocab"]
        return tuple(sorted(places, key=lambda word: places[word]))

    @cached_property
    def _arrays(self) -> dict[str, np.ndarray]:
        with np.load(self.rows) as file:
            arrays = {name: file[name].astype(np.int64) for name in file.files}
        return arrays | {name: arrays[name].reshape(-1, ROW) for name in ("training", "heldout")}

    def training(self) -> Windows:
        """The training rows that ship (a sample of what was trained on), in their order."""
        return _windows(self._arrays["training"])

    def heldout(self, n: int, seed: int) -> Windows:
        """Some rows of held-out files, drawn without replacement; all that ship if there are no more."""
        return _windows(_drawn(self._arrays["heldout"], n, seed))

    def runs(self) -> tuple[np.ndarray, np.ndarray]:
        """Boilerplate, shape (r, 24), and how many training files hold each run; see `runs.shared`."""
        return self._arrays["runs"], self._arrays["files"]

    def of_kind(self, kind: str, n: int, seed: int) -> Windows:
        """Segments of 8 to 24 different common tokens, repeated up to 64 tokens, behind an end-of-text token.

        Raises:
            ValueError: If the kind is not "repeat"; text itself has no law by which it could be drawn.
        """
        if kind != "repeat":
            raise ValueError(f"unknown kind {kind!r}; the stdlib corpus draws one kind, 'repeat': its text has no law")
        rng = np.random.default_rng(np.random.SeedSequence([seed, 1]))
        common, rows = np.array(self.common()), []
        for period in rng.integers(SHORTEST, LONGEST + 1, size=n):
            rows.append(np.resize(rng.permutation(common)[:period], ROW - 1))
        opened = np.column_stack([np.full(n, self.vocabulary.index(END)), np.array(rows).reshape(n, ROW - 1)])
        return _windows(opened, "repeat")

    def common(self, n: int = COMMON) -> list[int]:
        """At most n token ids, those most frequent in the training rows, in their order."""
        ids, counts = np.unique(self._arrays["training"], return_counts=True)
        return sorted(ids[np.argsort(-counts, kind="stable")[:n]].tolist())

    def queries(self, n: int, seed: int) -> Queries:
        """At most n questions a group: bigram, trigram, induction in text, boilerplate; see `questions`."""
        end = self.vocabulary.index(END)
        return asked(
            self._arrays["training"], self._arrays["heldout"], *self.runs(), len(self.vocabulary), end, n, seed
        )

    def fingerprint(self) -> str:
        """SHA-256 of the training rows that ship."""
        return hashlib.sha256(self._arrays["training"].astype("<i8").tobytes()).hexdigest()


def _windows(tokens: np.ndarray, kind: str = "text") -> Windows:
    return Windows(torch.from_numpy(tokens), np.full(len(tokens), kind), np.zeros(len(tokens), dtype=np.int64))


def _drawn(rows: np.ndarray, n: int, seed: int) -> np.ndarray:
    order = np.random.default_rng(np.random.SeedSequence(seed)).permutation(len(rows))
    return rows[np.sort(order[:n])]
