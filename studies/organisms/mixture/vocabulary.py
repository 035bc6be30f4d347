"""The words of the mixture corpus, in groups; a word's token id is its place in `VOCABULARY`."""

from __future__ import annotations

import string

import numpy as np

KINDS = ("markov", "markov2", "repeat", "facts", "tail", "story", "addition", "noise")
MODULUS = 31
STORY_VALUES = {
    "name": ("Ada", "Ben", "Cleo", "Dan", "Eve", "Finn", "Gus", "Hana"),
    "city": ("Accra", "Bergen", "Cairo", "Delhi", "Essen", "Faro", "Graz", "Hanoi"),
    "colour": ("amber", "blue", "crimson", "drab", "ecru", "fawn", "green", "henna"),
    "food": ("apple", "bread", "cheese", "dates", "eggs", "fish", "grapes", "honey"),
    "pet": ("ant", "bear", "cat", "dog", "eel", "fox", "goat", "hen"),
}
WORDS: dict[str, tuple[str, ...]] = {
    "special": ("<pad>", "<unk>"),
    "marker": tuple(f"<{kind}>" for kind in KINDS),
    "letter": tuple(string.ascii_lowercase),
    "capital": tuple(string.ascii_uppercase),
    "number": tuple(str(number) for number in range(MODULUS)),
    "equals": ("=",),
    "key": tuple(f"key{index}" for index in range(48)),
    "value": tuple(f"value{index}" for index in range(32)),
    "left": tuple(f"left{index}" for index in range(112)),
    "right": tuple(f"right{index}" for index in range(112)),
    "filler": ("first", "then", "also", "now", "so", "later", "here", "there"),
    "attribute": tuple(STORY_VALUES),
    "story value": tuple(value for values in STORY_VALUES.values() for value in values),
    "grammar": ("ask", "?", "ANS", "."),
}
VOCABULARY: tuple[str, ...] = tuple(word for group in WORDS.values() for word in group)


def ids(group: str) -> np.ndarray:
    """Token ids of one group of words, in the order of `WORDS`.

    Args:
        group: A key of `WORDS`.

    Returns:
        int64 array, one id a word.

    Raises:
        KeyError: If there is no such group; the message lists the groups.

    >>> [VOCABULARY[token] for token in ids("grammar")]
    ['ask', '?', 'ANS', '.']
    """
    if group not in WORDS:
        raise KeyError(f"unknown group of words {group!r}; expected one of {', '.join(WORDS)}")
    start = 0
    for name, words in WORDS.items():
        if name == group:
            break
        start += len(words)
    return np.arange(start, start + len(WORDS[group]))
