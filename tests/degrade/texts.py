"""A small language model with a tokenizer, and text for it."""

import numpy as np
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

LETTERS = "abcdefghijklmnopqrstuvwxyz \n.,"
SIZE = len(LETTERS) + 2


def tokenizer():
    """A token a letter, an end of text, and one for what is unknown."""
    words = {letter: place for place, letter in enumerate(LETTERS)} | {"<end>": SIZE - 2, "<unk>": SIZE - 1}
    made = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
    made.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    return PreTrainedTokenizerFast(tokenizer_object=made, eos_token="<end>", unk_token="<unk>")


def model(seed=0, context=32):
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=SIZE, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, num_key_value_heads=2,
        intermediate_size=24, max_position_embeddings=context, pad_token_id=None,
    )  # fmt: skip
    return LlamaForCausalLM(config)


def saved(folder):
    """The model and its tokenizer as a directory."""
    model().save_pretrained(folder)
    tokenizer().save_pretrained(folder)
    return folder


def documents(count=60, seed=0, words=40):
    """Texts of random words."""
    rng = np.random.default_rng(seed)
    letters = rng.integers(0, 26, size=(count, words, 5))
    return [" ".join("".join(LETTERS[i] for i in word) for word in text) + "." for text in letters]
