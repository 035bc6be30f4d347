"""Every probe meets one contract; joining is one line in `PROBES`."""

import random
from collections import Counter
from contextlib import contextmanager
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch

from degrade import plugins
from probes import Induction, Kinds, Patching, Recall, sweep
from probes.ablation import Ablation
from probes.attribution import Attribution
from probes.circuit_loss import CircuitLoss
from probes.code import Code
from probes.faithfulness import Faithfulness
from probes.heads import Heads
from probes.ioi import IOI
from probes.lenses import LogitLens
from probes.linear_probe import LinearProbe
from probes.memorisation import Memorisation
from probes.modular_addition import ModularAddition
from probes.ngrams import Ngrams
from probes.path_patching import PathPatching
from probes.reading import Reading
from probes.replacement import Replacement
from probes.request_patching import RequestPatching
from tests.probes import toys


def spread(model):
    """A plain function is a probe too."""
    return pd.DataFrame({"measure": ["spread"], "value": [float(model(torch.tensor([[1, 2, 3]])).std().detach())]})


PROBES = {
    "patching": lambda subject: Patching.build(subject, n=3),
    "path-patching": lambda subject: PathPatching.build(subject, n=3),
    "ablation": lambda subject: Ablation.build(subject, n=3),
    "attribution": lambda subject: Attribution.build(subject, n=3),
    "circuit-loss": lambda subject: CircuitLoss.build(subject, n=3, known=0.5, guess=20.0),
    "code": lambda subject: Code(subject.organism.corpus.heldout(400, seed=1).tokens, toys.PIECES, np.full(16, 1 / 16)),
    "faithfulness": lambda subject: Faithfulness.build(subject, n=3, size=20),
    "induction": lambda subject: Induction.build(subject, n=3),
    "recall": lambda subject: Recall.build(subject, n=3),
    "kinds": lambda subject: Kinds.build(subject, n=3),
    "heads": lambda subject: Heads.build(subject, n=3),
    "ioi": lambda subject: IOI(toys.names(3), circuit=((0, 1),), movers=((1, 0),)),
    "memorisation": lambda subject: Memorisation.build(subject, references=7),
    "ngrams": lambda subject: Ngrams.build(subject, n=3),
    "replacement": lambda subject: Replacement.build(subject, n=3),
    "logit-lens": lambda subject: LogitLens.build(subject, n=3),
    "linear-probe": lambda subject: LinearProbe.build(subject, n=24),
    "reading": lambda subject: Reading.build(subject, hook="blocks.1.hook_mlp_out", n=3),
    "request-patching": lambda subject: RequestPatching.build(subject, n=3),
    "modular-addition": lambda subject: ModularAddition.build(subject),
    "spread": lambda subject: spread,
}
CLAIMS = {
    "patching": lambda subject: PROBES["patching"](subject).claim(),
    "induction": lambda subject: PROBES["induction"](subject).claim(),
    "recall": lambda subject: PROBES["recall"](subject).claim(),
    "kinds": lambda subject: replace(
        PROBES["kinds"](subject), mastered=("cycle",)
    ).claim(),  # a random one masters none
    "replacement": lambda subject: replace(PROBES["replacement"](subject), least=0.1).claim(),
    **{
        name: lambda subject, name=name: PROBES[name](subject).claim()
        for name in ("path-patching", "ablation", "attribution", "circuit-loss", "code", "faithfulness")
    },
    **{
        name: lambda subject, name=name: PROBES[name](subject).claim()
        for name in ("heads", "ioi", "memorisation", "ngrams", "logit-lens", "linear-probe", "reading")
    },
    **{
        name: lambda subject, name=name: PROBES[name](subject).claim()
        for name in ("request-patching", "modular-addition")
    },
}


FORKED = (
    "path-patching",
    "attribution",
    "circuit-loss",
    "faithfulness",
)  # native attention takes q, k and v from one input


INSTALLED = {
    name: point
    for name, point in plugins.installed("probes").items()
    if point.dist is not None and point.dist.name == "natural-degradation"
}


@pytest.fixture(scope="module")
def model():
    return toys.bridge()


@pytest.mark.parametrize("name", INSTALLED)
def test_every_probe_that_is_installed_is_held_to_the_contract(name, model):
    assert isinstance(PROBES[name](toys.subject(model)), INSTALLED[name].load())
    assert name in CLAIMS


@pytest.fixture(scope="module", params=PROBES)
def probe(request, model):
    return PROBES[request.param](toys.subject(model))


def state(model):
    """Everything a probe must leave alone."""
    tensors = {name: tensor.clone() for name, tensor in [*model.named_parameters(), *model.named_buffers()]}
    modes = {name: module.training for name, module in model.named_modules()}
    hooks = {
        name: (len(module._forward_hooks), len(module._forward_pre_hooks), len(module._backward_hooks))
        for name, module in model.named_modules()
    }
    grads = {name: (parameter.requires_grad, parameter.grad is None) for name, parameter in model.named_parameters()}
    return tensors, (modes, hooks, grads)


def test_the_table_is_tidy(probe, model):
    table = probe(model)
    assert {"measure", "value"} <= set(table.columns)
    assert table["value"].dtype == np.float64 and np.isfinite(table["value"]).all()
    keys = [column for column in table.columns if column not in ("value", "chance")]
    assert len(table) and not table.duplicated(keys).any()


def test_it_answers_the_same_twice_bit_for_bit(probe, model):
    pd.testing.assert_frame_equal(probe(model), probe(model), check_exact=True)


def test_it_leaves_the_model_as_it_was(probe, model):
    tensors, rest = state(model)
    probe(model)
    after, others = state(model)
    assert all(torch.equal(tensors[name], after[name]) for name in tensors) and tensors.keys() == after.keys()
    assert rest == others


def test_it_leaves_the_global_generators_alone(probe, model):
    torch_before, numpy_before = torch.random.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002
    python_before = random.getstate()
    probe(model)
    assert python_before == random.getstate()
    assert torch.equal(torch_before, torch.random.get_rng_state())
    assert (numpy_before == np.random.get_state()[1]).all()  # noqa: NPY002


def test_a_model_in_train_mode_is_refused_and_left_so(probe, model):
    if probe is spread:
        pytest.skip("a function of the user's own checks what it likes")
    model.train()
    try:
        tensors, rest = state(model)
        with pytest.raises(ValueError, match="eval mode"):
            probe(model)
        after, others = state(model)
    finally:
        model.eval()
    assert rest == others and all(torch.equal(tensors[name], after[name]) for name in tensors)


def test_it_names_the_hooks_that_it_reads_and_no_more(probe, model, monkeypatch):
    """Counted: every hook that is named fires, as often as the others named with it, and no point carries another.

    Nobody names half of them, and nobody asks transformer-lens to keep everything.
    """
    points, real = set(model.hook_dict.values()), type(model).hooks
    carried, asked = [], []

    def watched(fired, name, edit):
        def fire(activation, hook):
            fired[name] += 1
            assert sum(len(point.fwd_hooks) for point in points) == sum(carried)
            return edit(activation, hook=hook)

        return fire

    @contextmanager
    def counted(self, fwd_hooks=(), **rest):
        fired = Counter({name: 0 for name, _ in fwd_hooks})
        carried.append(len(fwd_hooks))
        with real(self, fwd_hooks=[(name, watched(fired, name, edit)) for name, edit in fwd_hooks], **rest):
            yield
        carried.pop()
        asked.append(fired)

    monkeypatch.setattr(type(model), "hooks", counted)
    monkeypatch.setattr(type(model), "run_with_cache", forbidden)
    probe(model)
    for fired in filter(None, asked):
        assert len(fired) < len(model.hook_dict) / 2
        assert min(fired.values()) == max(fired.values()) > 0, fired


def forbidden(*_, **__):
    raise AssertionError("run_with_cache keeps every activation of the model")


def test_it_records_no_gradient(probe, model):
    with torch.enable_grad():
        probe(model)
    assert all(parameter.grad is None and parameter.requires_grad for parameter in model.parameters())


def test_emitted_measures_are_declared(probe, model):
    declared = getattr(probe, "measures", None)
    if declared is not None:
        table = probe(model)
        assert set(table["measure"]) == set(declared)
        for name, measure in declared.items():
            values = table.loc[table["measure"] == name, "value"]
            assert not measure.binary or values.isin([0, 1]).all()


def test_behaviours_belong_to_one_measure_and_have_a_chance_level(probe, model):
    table = probe(model)
    if "behaviour" in table:
        followed = table[table["behaviour"].notna()]
        assert not followed[["behaviour", "measure"]].drop_duplicates()["behaviour"].duplicated().any()
        assert followed["chance"].notna().all()


def test_it_works_in_a_sweep(probe, model):
    table = sweep(toys.Ladder(model, rungs=1, chains=1, draws=1), [probe], progress=False)
    assert set(table["rung"]) == {0, 1}
    trained = table.loc[table["rung"] == 0, "value"].to_numpy()
    np.testing.assert_array_equal(trained, probe(model)["value"].to_numpy())


def test_no_behaviour_is_asked_for_by_two_probes(model):
    subject = toys.subject(model)
    tables = [build(subject)(model) for build in PROBES.values()]
    names = [name for table in tables if "behaviour" in table for name in table["behaviour"].dropna().unique()]
    assert len(names) == len(set(names))


@pytest.mark.parametrize("name", CLAIMS)
def test_its_claim_is_decided_with_a_yes_or_a_no(name, model):
    claim = CLAIMS[name](toys.subject(model))
    table = claim(model)
    assert list(table["measure"]) == ["holds"] and table["value"].item() in (0.0, 1.0)
    assert claim.statement in claim.name


@pytest.fixture(scope="module", params=toys.FAMILIES)
def relative(request):
    """A model of another family, or in half precision; and whether its attention can be forked."""
    model = toys.family(request.param)
    with torch.no_grad():
        model(
            torch.tensor([[1, 2, 3]])
        )  # the first pass of a bridge leaves hooks of its own on the norms, whoever asks
    return model, request.param != "native"


@pytest.mark.parametrize("name", PROBES)
def test_it_works_on_other_families_and_in_half_precision_or_says_why_not(name, relative):
    """The whole contract: finite and the same twice; weights, hooks, mode and global generators as they were."""
    model, forks = relative
    before, generator = state(model), torch.random.get_rng_state()
    if name in FORKED and not forks:
        with pytest.raises(ValueError, match="needs? the inputs of q, k and v of each head apart"):
            PROBES[name](toys.subject(model))(model)
    else:
        probe = PROBES[name](toys.subject(model))
        table = probe(model)
        assert np.isfinite(table["value"]).all() and len(table)
        pd.testing.assert_frame_equal(table, probe(model), check_exact=True)
    after = state(model)
    assert all(torch.equal(before[0][key], after[0][key]) for key in before[0]) and before[1] == after[1]
    assert torch.equal(generator, torch.random.get_rng_state())


def test_on_every_family_the_whole_difference_enters_at_the_changed_token(relative):
    model, _ = relative
    table = PROBES["patching"](toys.subject(model))(model)
    roles = table.query("measure == 'role recovery' and site == 'resid_pre' and layer == 0")
    value = roles.set_index("role")["value"]
    assert value.to_dict() == pytest.approx(dict.fromkeys(value.index, 0) | {"changed": 1}, abs=1e-3)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here")
@pytest.mark.parametrize("name", PROBES)
def test_it_gives_the_same_answer_on_cuda(name):
    """Data stay where they are: a model on the device answers as on the CPU, to float32 rounding."""
    model = toys.bridge()
    probe = PROBES[name](toys.subject(model))
    here = probe(model)
    there = (spread_on_cuda if name == "spread" else probe)(model.to("cuda"))
    assert list(there["measure"]) == list(here["measure"])
    np.testing.assert_allclose(there["value"], here["value"], rtol=2e-3, atol=2e-3)


def spread_on_cuda(model):
    tokens = torch.tensor([[1, 2, 3]], device="cuda")
    return pd.DataFrame({"measure": ["spread"], "value": [float(model(tokens).std().detach())]})
