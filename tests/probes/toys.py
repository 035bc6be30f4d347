"""Tiny bridges with random weights, and a tiny corpus whose law is known, for the tests of the probes."""

from contextlib import contextmanager
from types import SimpleNamespace
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

LETTERS, MARKERS, LENGTH = 12, 4, 16
VOCABULARY = LETTERS + MARKERS  # letters are tokens 0..11, markers follow
KINDS = ("cycle", "markov", "noise", "repeat")
PIECES = ("(", "[", ")", "]", "\n", "\n  ", *"abcdefghij")  # what the tokens say, for probes that read it


def llama(seed=0, layers=2, d_model=8, heads=2, vocabulary=VOCABULARY, scale=0.5):
    """A raw Hugging Face Llama whose weights are large enough for every component to matter."""
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=d_model,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=heads,
        intermediate_size=3 * d_model,
        max_position_embeddings=32,
        pad_token_id=None,
    )
    with torch.random.fork_rng():
        model = LlamaForCausalLM(config).eval()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            parameter.copy_(scale * noise if parameter.ndim > 1 else 1 + 0.2 * noise)
    return model


def bridge(**settings):
    """The same model as a TransformerBridge in eval mode."""
    from transformer_lens.model_bridge.sources._bridge_builder import build_bridge_from_module

    model = llama(**settings)
    return build_bridge_from_module(model, "LlamaForCausalLM", hf_config=model.config, model_name="toy").eval()


def grouped(seed=0):
    """A Llama bridge whose two heads share one key-value head."""
    from transformer_lens.model_bridge.sources._bridge_builder import build_bridge_from_module
    from transformers import LlamaConfig, LlamaForCausalLM

    sizes = {"hidden_size": 8, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 24}
    config = LlamaConfig(vocab_size=VOCABULARY, num_key_value_heads=1, initializer_range=0.5, **sizes)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = LlamaForCausalLM(config).eval()
    return build_bridge_from_module(model, "LlamaForCausalLM", hf_config=config, model_name="toy").eval()


FAMILIES = ("gpt2", "neox", "qwen2", "grouped", "native", "bfloat16", "gpt2 bfloat16", "neox bfloat16")


def family(name):
    """A small random bridge of another family, or the Llama in half precision."""
    from transformer_lens import TransformerBridge, TransformerBridgeConfig
    from transformer_lens.model_bridge.sources._bridge_builder import build_bridge_from_module
    from transformers import (
        GPT2Config,
        GPT2LMHeadModel,
        GPTNeoXConfig,
        GPTNeoXForCausalLM,
        Qwen2Config,
        Qwen2ForCausalLM,
    )

    if name.endswith(" bfloat16"):
        return family(name.split()[0]).bfloat16()
    if name == "grouped":
        return grouped()
    if name == "native":
        sizes = {"d_model": 8, "d_head": 4, "n_heads": 2, "n_layers": 2, "n_ctx": 32, "d_vocab": VOCABULARY}
        with torch.random.fork_rng():
            return TransformerBridge.boot_native(TransformerBridgeConfig(**sizes, act_fn="relu", seed=0)).eval()
    common = {"vocab_size": VOCABULARY, "initializer_range": 0.5}
    sizes = {"hidden_size": 8, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 24}
    make = {
        "gpt2": lambda: GPT2LMHeadModel(GPT2Config(**common, n_embd=8, n_layer=2, n_head=2, n_positions=32)),
        "neox": lambda: GPTNeoXForCausalLM(GPTNeoXConfig(**common, **sizes)),
        "qwen2": lambda: Qwen2ForCausalLM(Qwen2Config(**common, **sizes, num_key_value_heads=2)),
        "bfloat16": lambda: llama().bfloat16(),
    }
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = make[name]().eval()
    return build_bridge_from_module(model, type(model).__name__, hf_config=model.config, model_name="toy").eval()


class Sample(NamedTuple):
    tokens: Tensor
    kind: np.ndarray
    entropy: np.ndarray
    surprisal: np.ndarray
    copies: np.ndarray


class Queries(NamedTuple):
    tokens: Tensor
    position: Tensor
    answer: Tensor
    group: np.ndarray
    frequency: np.ndarray
    chance: np.ndarray


class Pairs(NamedTuple):
    clean: Tensor
    corrupted: Tensor
    position: Tensor
    answer: Tensor
    wrong: Tensor


class Corpus:
    """cycle: x + 1 mod 12; markov: x + 1 or x + 2; noise: independent; repeat: 4 or 5 letters again and again."""

    def of_kind(self, kind, n, seed):
        rng = np.random.default_rng([seed, KINDS.index(kind)])
        body, entropy = getattr(self, f"_{kind}")(n, rng)
        tokens = np.concatenate([np.full((n, 1), LETTERS + KINDS.index(kind)), body], axis=1)
        return Sample(torch.from_numpy(tokens), np.full(n, kind), entropy, entropy.copy(), np.zeros(n, dtype=int))

    def _noise(self, n, rng):
        body = rng.integers(LETTERS, size=(n, LENGTH - 1))
        return body, np.full(body.shape, np.log(LETTERS))

    def _steps(self, n, rng, choices):
        steps = rng.integers(1, choices + 1, size=(n, LENGTH - 1))
        steps[:, 0] = rng.integers(LETTERS, size=n)
        entropy = np.full(steps.shape, np.log(choices))
        entropy[:, 0] = np.log(LETTERS)
        return steps.cumsum(1) % LETTERS, entropy

    def _cycle(self, n, rng):
        return self._steps(n, rng, 1)

    def _markov(self, n, rng):
        return self._steps(n, rng, 2)

    def _repeat(self, n, rng):
        period = rng.integers(4, 6, size=(n, 1))
        segment = rng.random((n, LETTERS)).argsort(1)
        place = np.arange(LENGTH - 1)
        body = np.take_along_axis(segment, place % period, axis=1)
        return body, np.where(place > period, 0.0, 1.0)  # 1.0 stands for "uncertain": not the law's exact value

    def heldout(self, n, seed):
        parts = [self.of_kind(kind, -(-n // len(KINDS)), seed + 1) for kind in KINDS]
        rest = (np.concatenate([part[i] for part in parts]) for i in range(1, 5))
        return Sample(torch.cat([part.tokens for part in parts]), *rest)

    def training(self):
        return self.heldout(64, seed=7)

    def canaries(self):
        return self.of_kind("noise", 6, seed=99)._replace(copies=np.repeat([1, 4, 16], 2))

    def queries(self, n, seed):
        """The letter that follows in a cycle, asked at random positions."""
        sample = self.of_kind("cycle", 2 * n, seed)
        position = torch.arange(2 * n) % (LENGTH - 2) + 1
        answer = sample.tokens.gather(1, position[:, None] + 1)[:, 0]
        group = np.repeat(["early", "late"], n)
        return Queries(sample.tokens, position, answer, group, np.full(2 * n, np.nan), np.full(2 * n, 1 / LETTERS))

    def pairs(self, n, seed):
        """Noise that differs in one letter; the answer is that letter."""
        clean = self.of_kind("noise", n, seed).tokens
        corrupted, where = clean.clone(), torch.arange(n) % 5 + 2
        rows = torch.arange(n)
        corrupted[rows, where] = (clean[rows, where] + 1 + rows % (LETTERS - 1)) % LETTERS
        position = torch.full((n,), LENGTH - 4)
        return Pairs(clean, corrupted, position, clean[rows, where], corrupted[rows, where])

    def requests(self, n, seed):
        """Noise with three different letters for answers; the request is read at places that differ."""
        from probes.orion import Pairs as Requests

        source, target = (self.of_kind("noise", n, seed + i).tokens for i in range(2))
        place, answer = torch.arange(n) % 4 + 5, torch.arange(n) % LETTERS
        source[torch.arange(n), place] = target[torch.arange(n), place + 3] = LETTERS + 1
        answers = ((answer + i) % LETTERS for i in range(3))
        return Requests(source, place, target, place + 3, *answers, np.full(n, 1 / LETTERS))

    def sums(self):
        """Addition modulo 11, two pairs of five trained on."""
        p, number = 11, torch.arange(11)
        pairs = torch.cartesian_prod(number, number)
        tokens = torch.cat([pairs, torch.full((p * p, 1), LETTERS)], dim=1)
        trained = np.arange(p * p) % 5 < 2
        position = torch.full((p * p,), 2)
        return SimpleNamespace(tokens=tokens, position=position, summands=number, answers=number, trained=trained)


def names(n):
    """IOI prompts in noise: letter 8 is IO, 9 is S, at places that differ from prompt to prompt."""
    from probes.templates import Prompts

    tokens = Corpus().of_kind("noise", n, seed=3).tokens[:, :12] % 8  # names are letters 8..11
    rows = torch.arange(n)
    io, s1, s2 = 1 + 2 * (rows % 2), 3 - 2 * (rows % 2), 6 + rows % 2
    corrupted = tokens.clone()
    for place, name, other in ((io, 8, 10), (s1, 9, 11), (s2, 9, 8)):
        tokens[rows, place], corrupted[rows, place] = name, other
    template = np.array([str(order) for order in (rows % 2).tolist()])
    return Prompts(tokens, corrupted, io, s1, s2, torch.full((n,), 9), template)


def subject(model):
    """The toy corpus with a model, as a probe is built from."""
    from probes import Subject

    return Subject(model, organism=SimpleNamespace(corpus=Corpus()))


class Ladder:
    """Draws that scale the output weights of a model; counts what was applied."""

    def __init__(self, model, rungs=2, chains=2, draws=3):
        self.model, self.applications = model, []
        self._draws = [
            SimpleNamespace(
                rung=rung, chain=chain, index=index, target=0.1 * rung, rise=0.11 * rung, heldout_rise=0.1, verdict="ok"
            )
            for rung in range(1, rungs + 1)
            for chain in range(chains)
            for index in range(draws)
        ]

    def draws(self):
        return iter(self._draws)

    @contextmanager
    def applied(self, draw):
        self.applications.append((draw.rung, draw.chain, draw.index))
        weights = list(self.model.parameters())[-1]
        before = weights.detach().clone()
        with torch.no_grad():
            weights.mul_(1 + draw.rung + 0.1 * draw.chain + 0.01 * draw.index)
        try:
            yield
        finally:
            with torch.no_grad():
                weights.copy_(before)
