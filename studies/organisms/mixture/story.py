"""Short stories whose last lines ask for attributes: the retrieval tasks of Variengien & Winsor (arXiv 2312.10091)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, eq=False)
class Story:
    """`filler attribute value .` once for each of a attributes in random order, then two questions and a full stop.

    A question reads `ask attribute ? ANS value`, so the token before the answer is the same whatever is asked. The two
    questions ask for different attributes. Fillers (f of them) are independent and uniform, the order of the
    attributes is uniform, each value is uniform on its attribute's v values: every conditional is uniform on its
    support, and surprisal equals entropy.

    Attributes:
        fillers: Token ids, shape (f,).
        attributes: Token ids, shape (a,).
        values: Token ids, shape (a, v).
        grammar: Token ids of `ask`, `?`, `ANS`, `.`.
    """

    fillers: np.ndarray
    attributes: np.ndarray
    values: np.ndarray
    grammar: np.ndarray

    @property
    def length(self) -> int:
        """Tokens a story: 4 a + 11."""
        return 4 * len(self.attributes) + 11

    @property
    def answer_index(self) -> int:
        """Index of the first question's answer within the story."""
        return 4 * len(self.attributes) + 4

    def draw(self, n: int, rng: np.random.Generator) -> np.ndarray:
        """Sample `n` sequences of token ids, shape (n, length)."""
        count, choices = self.values.shape
        order = rng.random((n, count)).argsort(1)
        value = (rng.random((n, count)) * choices).astype(np.int64)
        filler = (rng.random((n, count)) * len(self.fillers)).astype(np.int64)
        asked = rng.random((n, count)).argsort(1)[:, :2]
        return self.write(order, value, filler, asked)

    def write(self, order: np.ndarray, value: np.ndarray, filler: np.ndarray, asked: np.ndarray) -> np.ndarray:
        """Stories with given contents.

        Args:
            order: Attribute of each sentence, shape (n, a), each row a permutation.
            value: Value of each *attribute* (not sentence), shape (n, a).
            filler: Filler of each sentence, shape (n, a).
            asked: Attributes asked for, shape (n, 2).

        Returns:
            Token ids, shape (n, length).
        """
        question, mark, prefix, stop = self.grammar
        chosen = self.values[np.arange(len(self.attributes)), value]
        said = np.take_along_axis(chosen, order, axis=1)
        sentences = np.stack([self.fillers[filler], self.attributes[order], said, np.full_like(said, stop)], axis=-1)
        answers = np.take_along_axis(chosen, asked, axis=1)
        fixed = [np.full_like(answers, token) for token in (question, mark, prefix)]
        questions = np.stack([fixed[0], self.attributes[asked], fixed[1], fixed[2], answers], axis=-1)
        n, sentence_tokens = len(order), 4 * len(self.attributes)
        parts = [sentences.reshape(n, sentence_tokens), questions.reshape(n, 10), np.full((n, 1), stop)]
        return np.concatenate(parts, axis=1)

    def _profile(self) -> np.ndarray:
        """Entropy by position, in nats."""
        count, choices = self.values.shape
        sentences = [[np.log(len(self.fillers)), np.log(count - s), np.log(choices), 0.0] for s in range(count)]
        questions = [[0.0, np.log(count - q), 0.0, 0.0, 0.0] for q in range(2)]
        return np.concatenate([np.ravel(sentences), np.ravel(questions), [0.0]])

    def score(self, tokens: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Entropy and surprisal of every token given its prefix, each (n, length), in nats."""
        entropy = np.tile(self._profile(), (len(tokens), 1))
        return entropy, entropy.copy()

    def mean_entropy(self) -> float:
        """Exact expectation of the entropy averaged over positions, in nats per token."""
        return float(self._profile().mean())
