"""The text of the stdlib organism: which files of the running Python are read, and how they become windows of tokens.

The rule. Every `.py` file below the standard library's folder is read but those in `SKIPPED` folders (tests, data,
generated tables, what was installed later) and those that say in their first lines that they were generated. A file is
a document; `degrade.packing.split` says by the hash of its content whether it is for training (0.8 of the range of
hashes), control (0.1, left alone) or held out (0.1), so that equal files are in one set. The files of a set, in the
order of their names, each behind an end-of-text token, are cut into windows of `CONTEXT` tokens.
"""

from __future__ import annotations

import sysconfig
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from degrade.packing import split

CONTEXT, VOCABULARY = 128, 1024
ROW = 64  # tokens of a row of the corpus: windows are read in halves, because a sampler pays for every token of a row
PAD, END = "<pad>", "<|endoftext|>"
SKIPPED = {
    "test", "tests", "idlelib", "idle_test", "lib2to3", "pydoc_data", "encodings", "turtledemo", "msilib",
    "site-packages", "dist-packages", "__pycache__", "__phello__",
}  # fmt: skip
MADE = ("generated", "do not edit")  # words of files that no hand wrote
OPENING = 600  # characters in which a file says so


def folder() -> Path:
    """Where the running Python keeps its standard library."""
    return Path(sysconfig.get_path("stdlib"))


def chosen(root: Path) -> Iterator[str]:
    """Names of the files that are read, relative to the library's folder, in their order.

    >>> "argparse.py" in set(chosen(folder()))
    True
    """
    for path in sorted(root.rglob("*.py"), key=lambda path: path.relative_to(root).as_posix()):
        parts = path.relative_to(root).parts
        skipped = SKIPPED & set(parts[:-1]) or parts[0].startswith(("config-", "_sysconfigdata"))
        if not skipped and not _made(path):
            yield path.relative_to(root).as_posix()


def _made(path: Path) -> bool:
    opening = path.read_bytes()[:OPENING].lower()
    return any(word.encode() in opening for word in MADE)


def documents(root: Path) -> dict[str, list[tuple[str, str]]]:
    """Name and text of each file by set: "sampling" (training), "control", "held-out"; empty files are left out."""
    names = list(chosen(root))
    texts = [(name, (root / name).read_bytes().decode("utf-8", errors="replace")) for name in names]
    texts = [(name, text.replace("\r\n", "\n")) for name, text in texts if text.strip()]
    return {part: [texts[i] for i in places] for part, places in split([text for _, text in texts]).items()}


def trained_tokenizer(texts: Sequence[str], size: int = VOCABULARY) -> Tokenizer:
    """Byte-level BPE (Sennrich et al. 2016, arXiv 1508.07909; bytes as in GPT-2) of some texts.

    Token 0 is `<pad>`, which never occurs, token 1 the end of a text; every byte is a token, so none is unknown.
    """
    found = Tokenizer(models.BPE())
    found.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    found.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=size,
        special_tokens=[PAD, END],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    found.train_from_iterator(texts, trainer)
    return found


def encoded(tokenizer: Tokenizer, texts: Sequence[str]) -> list[np.ndarray]:
    """Token ids of each text, the end-of-text token before them."""
    end = tokenizer.token_to_id(END)
    return [np.array([end, *one.ids], dtype=np.int64) for one in tokenizer.encode_batch(list(texts))]


def windows(rows: Sequence[np.ndarray], length: int = CONTEXT) -> np.ndarray:
    """Documents one behind the other, cut into windows, shape (n, length); what is left over is dropped."""
    stream = np.concatenate(list(rows))
    return stream[: len(stream) // length * length].reshape(-1, length)
