"""Every probe refuses what it cannot ask about, before or when it runs, and says what is wrong and what it expects."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from probes import (
    IOI,
    Ablation,
    Attribution,
    Circuit,
    Code,
    Faithfulness,
    Heads,
    Induction,
    Kinds,
    LinearProbe,
    LogitLens,
    Memorisation,
    ModularAddition,
    Ngrams,
    Patching,
    Reading,
    Recall,
    Replacement,
    RequestPatching,
)
from probes.circuit_loss import CircuitLoss
from probes.counts import Counts
from probes.graph import Graph
from probes.induction import periods
from probes.path_patching import PathPatching
from probes.replacement import Interpretation, constant, lookup
from tests.probes import toys

CORPUS = toys.Corpus()
TOKENS = CORPUS.of_kind("noise", 4, seed=0).tokens
PAIRS, REQUESTS, QUERIES = CORPUS.pairs(4, seed=2), CORPUS.requests(4, seed=0), CORPUS.queries(2, seed=0)
CANARIES, SUMS, NAMES = CORPUS.canaries(), CORPUS.sums(), toys.names(4)
REPEATS = CORPUS.of_kind("repeat", 4, seed=0).tokens
PERIODS = periods(REPEATS, start=1)
GRAPH = Graph(2, 2, 2)
MLP = "blocks.0.hook_mlp_out"


def law(tokens):
    return np.ones((len(tokens), tokens.shape[-1] - 1))


OF_TOKENS = {  # by probe: one that asks about these token ids
    "ablation": lambda tokens: Ablation.of_next_token(tokens),
    "code": lambda tokens: Code(tokens, toys.PIECES, np.full(16, 1 / 16)),
    "heads": lambda tokens: Heads(Induction(tokens, PERIODS[: len(tokens)], 1)),
    "induction": lambda tokens: Induction(tokens, PERIODS[: len(tokens)], 1),
    "ioi": lambda tokens: IOI(NAMES._replace(tokens=tokens)),
    "kinds": lambda tokens: Kinds(tokens, np.array(["one"] * len(tokens)), law(tokens), law(tokens)),
    "linear-probe": lambda tokens: LinearProbe(
        tokens, torch.zeros(len(tokens), dtype=torch.int64), np.arange(len(tokens)) % 2, np.arange(len(tokens)) < 3
    ),
    "logit-lens": LogitLens,
    "memorisation": lambda tokens: Memorisation(CANARIES, tokens),
    "ngrams": lambda tokens: Ngrams(tokens, Counts.of(TOKENS.numpy(), order=2)),
    "reading": lambda tokens: Reading(MLP, lambda x: x.norm(dim=(1, 2)), tokens),
    "recall": lambda tokens: Recall(None, CANARIES._replace(tokens=tokens, copies=np.ones(len(tokens)))),
    "replacement": lambda tokens: Replacement(tokens, (constant(MLP, torch.zeros(8)),)),
    "request-patching": lambda tokens: RequestPatching(REQUESTS._replace(source=tokens)),
}
OF_PAIRS = {
    "attribution": Attribution,
    "circuit-loss": lambda *pairs: CircuitLoss(*pairs, circuits=(Circuit(GRAPH, GRAPH.edges),)),
    "faithfulness": lambda *pairs: Faithfulness(*pairs, circuit=Circuit(GRAPH, GRAPH.edges)),
    "patching": Patching,
    "path-patching": PathPatching,
}
WRONG_TOKENS = {
    "none": (lambda tokens: tokens[:0], r"shape .*at least 1.*\(0, 16\)"),
    "no batch": (lambda tokens: tokens[0], r"shape .*\(16,\)"),
    "too few": (lambda tokens: tokens[:, :1], r"shape .*\(4, 1\)|source_position must lie in 0..0"),
    "real numbers": (lambda tokens: tokens.float(), r"int64, got torch.float32: convert them by .long\(\)"),
}


@pytest.mark.parametrize("wrong", WRONG_TOKENS)
@pytest.mark.parametrize("name", OF_TOKENS)
def test_what_is_no_batch_of_token_ids_is_refused(name, wrong, model):
    if (name, wrong) in {("reading", "too few"), ("linear-probe", "too few")}:
        pytest.skip("one token is something to read")
    change, message = WRONG_TOKENS[wrong]
    with pytest.raises(ValueError, match=message):
        OF_TOKENS[name](change(TOKENS if name not in ("heads", "induction") else REPEATS))(model)


@pytest.mark.parametrize("name", [name for name in OF_TOKENS if name not in ("heads", "induction", "ioi", "code")])
def test_token_ids_that_the_model_does_not_have_are_refused(name, model):
    tokens = TOKENS.clone()
    tokens[1, 3] = 99
    with pytest.raises(ValueError, match=r"token ids must lie in 0..15, the vocabulary of this model; got 0 to 99"):
        OF_TOKENS[name](tokens)(model)


@pytest.mark.parametrize("name", OF_PAIRS)
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"clean": PAIRS.clean[:, :-1]}, r"got \(4, 15\) and \(4, 16\): .* make each pair equally long"),
        ({"answer": PAIRS.answer[:2]}, r"answer must have shape \(4,\), one entry for each pair; got \(2,\)"),
        ({"position": PAIRS.position + 9}, r"position must lie in 0..15, got \[21, 21, 21, 21\]"),
        ({"corrupted": PAIRS.clean}, r"pairs \[0, 1, 2, 3\] have identical prompts .* drop them"),
        ({"wrong": PAIRS.wrong + 90}, r"token ids must lie in 0..15"),
        (dict(zip(PAIRS._fields, (part[:0] for part in PAIRS), strict=True)), r"n at least 1 .* got \(0, 16\)"),
    ],
)
def test_pairs_that_cannot_be_patched_are_refused(name, change, message, model):
    with pytest.raises(ValueError, match=message):
        OF_PAIRS[name](*PAIRS._replace(**change))(model)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Recall(QUERIES._replace(answer=QUERIES.answer[:1])), r"answer must have shape \(4,\).* got \(1,\)"),
        (lambda: Recall(QUERIES._replace(position=QUERIES.position + 99)), "queries.position must lie in 0..15"),
        (lambda: Recall(QUERIES._replace(chance=QUERIES.chance[:1])), r"chance must have shape \(4,\)"),
        (lambda: Memorisation(CANARIES._replace(copies=np.ones(1)), TOKENS), r"copies must have shape \(6,\)"),
        (lambda: Memorisation(CANARIES, TOKENS, trained=np.ones(2)), r"trained must have shape \(6,\)"),
        (lambda: RequestPatching(REQUESTS._replace(chance=REQUESTS.chance[:2])), r"chance must have shape \(4,\)"),
        (lambda: RequestPatching(REQUESTS._replace(moved=REQUESTS.moved[:2])), r"moved must have shape \(4,\)"),
        (lambda: IOI(NAMES._replace(s1=torch.tensor([1]))), r"s1 must have shape \(4,\)"),
        (lambda: IOI(NAMES._replace(end=NAMES.end + 90)), "end must lie in 0..11"),
        (lambda: IOI(NAMES._replace(corrupted=NAMES.corrupted[:, :5])), r"\(4, 12\) and \(4, 5\): use as many tokens"),
        (lambda: Ablation.of_next_token(TOKENS, TOKENS > 0), r"scored must have shape \(4, 15\), got \(4, 16\)"),
        (lambda: Induction.random(range(4), n=0), "n must be a whole number of at least 1, got 0"),
        (lambda: Heads(Induction(REPEATS, PERIODS, 1), best={}).claim(), "Heads.build"),
        (lambda: LinearProbe(TOKENS, TOKENS[:, 0] + 90, np.arange(4) % 2, np.arange(4) < 3), "position must lie in"),
        (lambda: Faithfulness(*PAIRS, circuit=Circuit(GRAPH, ()), method="acdc"), "'acdc'; choose from eap, eap-ig"),
        (lambda: Faithfulness(*PAIRS, circuit=Circuit(GRAPH, ()), steps=0), "steps must be .* got 0"),
        (lambda: Faithfulness(*PAIRS, circuit=Circuit(GRAPH, ()), subsets=-1), "subsets .* got -1"),
    ],
)
def test_parts_that_do_not_fit_together_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize(
    ("probe", "message"),
    [
        (RequestPatching(REQUESTS, best=9), r"layers must lie in 0..2 .* got \[9\]"),
        (IOI(NAMES, circuit=((0, -1),)), "L0H-1 of the circuit are not in a model of 2 layers of 2 heads"),
        (Ablation.of_next_token(TOKENS, groups=(((9, 0),),)), r"2 layers of 2 heads; got \[\(9, 0\)\]"),
        (Ablation.of_next_token(TOKENS, groups=((),)), "2 layers of 2 heads; got none"),
        (PathPatching(*PAIRS, senders=((0, 9),)), r"heads \[\(0, 9\)\] are not in a model of 2 layers of 2 heads"),
        (Reading("blocks.9.hook_mlp_out", torch.norm, TOKENS), "no hook 'blocks.9.hook_mlp_out'; near it are blocks.0"),
        (Replacement(TOKENS, (constant(MLP, torch.zeros(5)),)), rf"{MLP}' cannot be applied .*\(4, 16, 8\)"),
        (Replacement(TOKENS, (lookup(MLP, torch.zeros(5, 8)),)), f"{MLP}' cannot be applied .* out of bounds"),
        (Replacement(TOKENS, (Interpretation(MLP, lambda x, _: x[:, :3]),)), r"\(4, 16, 8\), and has \(4, 3, 8\)"),
    ],
)
def test_what_this_model_does_not_have_is_refused_when_it_is_asked(probe, message, model):
    with pytest.raises(ValueError, match=message):
        probe(model)


def test_more_tokens_than_a_model_has_positions_are_refused():
    with pytest.raises(ValueError, match="32 positions, got sequences of 40 tokens"):
        LogitLens(torch.zeros(2, 40, dtype=torch.int64))(toys.family("gpt2"))


@pytest.mark.parametrize("change", [{"position": SUMS.position + 5}, {"tokens": SUMS.tokens.float()}])
def test_sums_that_cannot_be_asked_are_refused(change):
    with pytest.raises(ValueError, match="sums.position must lie in 0..2|int64"):
        ModularAddition(type(SUMS)(**{**vars(SUMS), **change}))


BRIDGES = {name: OF_PAIRS[name](*PAIRS) for name in OF_PAIRS} | {
    name: OF_TOKENS[name](REPEATS if name == "heads" else TOKENS)
    for name in ("ablation", "heads", "linear-probe", "logit-lens", "reading", "replacement", "request-patching")
}


@pytest.mark.parametrize("name", BRIDGES)
def test_what_reads_activations_refuses_a_model_without_hooks(name):
    with pytest.raises(TypeError, match="needs a TransformerBridge, got LlamaForCausalLM: load the model with"):
        BRIDGES[name](toys.llama())


@pytest.mark.parametrize("name", ["kinds", "memorisation", "ngrams", "recall"])
def test_what_reads_logits_alone_asks_any_model(name):
    assert len(OF_TOKENS[name](TOKENS)(toys.llama()))


def test_a_model_that_is_none_at_all_is_refused():
    with pytest.raises(TypeError, match="got NoneType"):
        replace(Patching(*PAIRS), sites=("z",))(None)
