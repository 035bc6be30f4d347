"""A two-layer GPT-2 whose weights are set by hand to do induction by one circuit, with idle parts beside it.

Subspaces of the stream: A the token, P the position, B the token before, C the guess, J junk that the logits never see.
Head 0 of layer 0 looks one position back and copies A to B; head 1 of layer 1 looks for a B that equals its own A and
copies A to C, which the logits read. The other two heads and the MLPs read A or J and write to J.
"""

from typing import NamedTuple

import numpy as np
import torch

TOKENS, LENGTH, WIDTH, HEAD = 8, 8, 48, 24
A, P, B, C, J = (slice(start, start + 8) for start in (0, 8, 16, 24, 32))
EDGES = ("input->L0H0.v", "L0H0->L1H1.k", "input->L1H1.q", "input->L1H1.v", "L1H1->logits")
SHARP = 9.0  # score of a match, in nats; behind e^9 nothing else is seen
HUGE = 1e12  # as epsilon of a norm of weight 1e6: the norm only centres


class Pairs(NamedTuple):
    clean: torch.Tensor
    corrupted: torch.Tensor
    position: torch.Tensor
    answer: torch.Tensor
    wrong: torch.Tensor


def pairs(n=12, seed=0):
    """`s a x b y t t' a` -> x, with one of three things changed: the keys swapped, the value, or the question."""
    rng = np.random.default_rng(seed)
    clean = np.stack([rng.permutation(TOKENS) for _ in range(n)])  # s a x b y t t' and one that is overwritten
    clean[:, 7] = clean[:, 1]
    corrupted, answer, wrong = clean.copy(), clean[:, 2].copy(), clean[:, 4].copy()
    for row in range(n):
        if row % 3 == 0:
            corrupted[row, [1, 3]] = clean[row, [3, 1]]
        elif row % 3 == 1:
            corrupted[row, 7] = clean[row, 3]
        else:
            corrupted[row, 2] = wrong[row] = np.setdiff1d(np.arange(TOKENS), clean[row])[0]
    return Pairs(*map(torch.from_numpy, (clean, corrupted, np.full(n, LENGTH - 1), answer, wrong)))


def bridge():
    from transformer_lens.model_bridge.sources._bridge_builder import build_bridge_from_module
    from transformers import GPT2Config, GPT2LMHeadModel

    sizes = {"vocab_size": TOKENS, "n_embd": WIDTH, "n_layer": 2, "n_head": 2, "n_positions": LENGTH, "n_inner": 8}
    config = GPT2Config(**sizes, layer_norm_epsilon=HUGE, tie_word_embeddings=False)
    with torch.random.fork_rng():
        model = GPT2LMHeadModel(config).eval()
    with torch.no_grad():
        _write(model)
    return build_bridge_from_module(model, "GPT2LMHeadModel", hf_config=config, model_name="planted").eval()


def _write(model):
    for name, parameter in model.named_parameters():
        parameter.fill_(HUGE**0.5 if "ln_" in name and name.endswith("weight") else 0.0)
    one = torch.eye(8)
    model.transformer.wte.weight[:, A] = one
    model.transformer.wpe.weight[:, P] = one
    model.lm_head.weight[:, C] = 4 * one
    before = one.roll(1, 1)  # key of position j: the query of position j + 1
    strength = SHARP * HEAD**0.5
    _head(model, 0, 0, q=(P, strength * one), k=(P, before), v=(A, one), o=(B, one))
    _head(model, 1, 1, q=(A, strength * one), k=(B, one), v=(A, one), o=(C, one))
    _head(model, 0, 1, q=(A, one), k=(A, one), v=(A, one), o=(J, one))
    _head(model, 1, 0, q=(J, one), k=(A, one), v=(J, one), o=(J, one))
    for block in model.transformer.h:
        block.mlp.c_fc.weight[A] = 2 * one
        block.mlp.c_fc.weight[J] = one
        block.mlp.c_proj.weight[:, J] = one


def _head(model, layer, head, q, k, v, o):
    attention, at = model.transformer.h[layer].attn, slice(HEAD * head, HEAD * head + 8)
    for start, (space, weight) in zip((0, WIDTH, 2 * WIDTH), (q, k, v), strict=True):
        attention.c_attn.weight[space, start + at.start : start + at.stop] = weight
    space, weight = o
    attention.c_proj.weight[at, space] = weight
