"""Data by name: every form gives its documents, and one sentence for each mistake."""

import json
import sys
import time

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from degrade.sources import read
from tests.degrade.texts import documents

TEXTS = documents(5, words=400)


def write(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content) if isinstance(content, bytes) else path.write_text(content)
    return str(path)


def test_a_text_file_is_cut_at_blank_lines_and_loses_nothing(tmp_path):
    text = "\n\n".join(TEXTS)
    source = read(write(tmp_path / "a.txt", text))
    assert "".join(source.documents).strip() == text.strip()
    assert len(source.documents) == 5 and all(len(one) >= 1000 for one in source.documents)


def test_a_text_file_without_blank_lines_is_cut_at_line_ends(tmp_path):
    source = read(write(tmp_path / "a.txt", "\n".join(TEXTS)))
    assert len(source.documents) == 5


def test_a_text_file_with_ends_of_text_is_cut_there(tmp_path):
    assert read(write(tmp_path / "a.txt", "<|endoftext|>".join(["one", "two\n\nthree", ""]))).documents == [
        "one", "two\n\nthree",
    ]  # fmt: skip


def test_a_folder_gives_a_document_a_file_in_the_order_of_names(tmp_path):
    for name, text in {"b.txt": "two", "a.md": "one", "c/d.py": "three", ".git/x.txt": "no", "e.png": b"\xff"}.items():
        write(tmp_path / name, text)
    write(tmp_path / "z.jsonl", '{"text": "four"}\n\n{"text": "five", "id": 1}\n')
    assert read(str(tmp_path)).documents == ["one", "two", "three", "four", "five"]


def test_jsonl_gives_a_document_a_line(tmp_path):
    rows = [{"text": "one"}, {"tokens": [3, 4]}, {"input_ids": [5]}]
    assert read(write(tmp_path / "a.jsonl", "\n".join(map(json.dumps, rows)))).documents == ["one", [3, 4], [5]]


def test_tensor_files_give_their_rows(tmp_path):
    tokens = torch.arange(12).reshape(3, 4)
    np.save(tmp_path / "a.npy", tokens.numpy().astype(np.uint16))
    torch.save({"input_ids": tokens, "labels": tokens}, tmp_path / "a.pt")
    save_file({"anything": tokens}, tmp_path / "a.safetensors")
    for name in ("a.npy", "a.pt", "a.safetensors"):
        assert torch.equal(read(str(tmp_path / name)).rows, tokens)


def test_one_long_row_is_cut(tmp_path):
    np.save(tmp_path / "a.npy", np.arange(2500))
    assert [len(one) for one in read(str(tmp_path / "a.npy")).documents] == [1024, 1024, 452]


@pytest.mark.parametrize("split", [False, True])
def test_a_saved_dataset_gives_its_train_split(tmp_path, split):
    datasets = pytest.importorskip("datasets")
    table = datasets.Dataset.from_dict({"text": ["one", "two"], "id": [0, 1]})
    (datasets.DatasetDict({"train": table, "test": table}) if split else table).save_to_disk(tmp_path / "saved")
    assert read(str(tmp_path / "saved")).documents == ["one", "two"]


def test_a_dataset_without_text(tmp_path):
    datasets = pytest.importorskip("datasets")
    datasets.Dataset.from_dict({"label": [0, 1], "id": [0, 1]}).save_to_disk(tmp_path / "saved")
    with pytest.raises(ValueError, match='have the columns label, id; expected "text"'):
        read(str(tmp_path / "saved"))
    datasets.DatasetDict({"test": datasets.Dataset.from_dict({"text": ["one"]})}).save_to_disk(tmp_path / "split")
    with pytest.raises(ValueError, match="hold the splits test; expected one named train"):
        read(str(tmp_path / "split"))


def test_without_the_package_datasets_the_extra_is_named(tmp_path, monkeypatch):
    write(tmp_path / "saved" / "state.json", "{}")
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(ImportError, match=r"pip install 'natural-degradation\[data\]'"):
        read(str(tmp_path / "saved"))


def test_a_dataset_of_the_hub_that_is_missing_is_an_error_at_once(monkeypatch, tmp_path):
    pytest.importorskip("datasets")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("datasets.config.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path)
    began = time.monotonic()
    with pytest.raises(FileNotFoundError, match="'org/typo' are no file or directory, and the hub does not give them"):
        read("org/typo")
    assert time.monotonic() - began < 5


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("a.txt", "", "hold no document that is not empty"),
        ("a.txt", b"abc\xff\xfe", "no UTF-8 text .byte 0xff at 3.; expected a text file"),
        ("a.jsonl", '{"text": "one"}\n{"text": ', r"a.jsonl:2 is no JSON"),
        ("a.jsonl", '{"body": "one"}', r'a.jsonl:1 holds body; expected an object with "text"'),
        ("a.jsonl", '{"tokens": [0.5]}', r'a.jsonl:1 holds tokens; expected an object with "text"'),
        ("a.npy", b"nothing", "cannot be read as .npy"),
        ("a.pt", b"nothing", "cannot be read as .pt"),
        ("folder/a.png", b"nothing", "hold no text: expected files named .txt .*, found .png"),
    ],
)
def test_files_that_hold_no_documents(tmp_path, name, content, said):
    path = write(tmp_path / name, content)
    with pytest.raises(ValueError, match=said):
        read(str(tmp_path / "folder") if name.startswith("folder") else path)


def test_tensors_that_are_no_tokens(tmp_path):
    np.save(tmp_path / "a.npy", np.zeros((3, 4)))
    with pytest.raises(ValueError, match=r"are torch.float64 of shape \(3, 4\); expected whole numbers"):
        read(str(tmp_path / "a.npy"))
    save_file({"a": torch.zeros(2, 2).long(), "b": torch.zeros(2, 2).long()}, tmp_path / "b.safetensors")
    with pytest.raises(ValueError, match='hold a, b; expected one tensor, or "input_ids"'):
        read(str(tmp_path / "b.safetensors"))


@pytest.mark.parametrize("name", ["./typo", "typo.txt", "a/b/c", "typo.jsonl"])
def test_a_path_that_is_not_there(name):
    with pytest.raises(FileNotFoundError, match="there is no such file or directory; expected a text file"):
        read(name)


def test_what_is_no_name():
    with pytest.raises(ValueError, match="data 'two words' is no name of data; expected a text file"):
        read("two words")
