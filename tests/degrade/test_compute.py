"""Ways to compute: the same law in bfloat16, the same gradients in parts and recomputed, and each mistake named."""

import math

import numpy as np
import pytest
import torch
from torch import nn
from transformers import GPT2Config, GPT2LMHeadModel, GPTNeoXConfig, GPTNeoXForCausalLM, LlamaConfig, LlamaForCausalLM

import degrade
from degrade.compute import Compute, Computed, blocks, computed, computing, present, summed
from degrade.journal import JournalError
from degrade.losses import label_loss, next_token_loss
from degrade.models import wrapped
from degrade.noise import Key, normal_like
from degrade.parameters import lent, select
from degrade.request import Request
from degrade.scene import set_scene
from tests.degrade.runs import small
from tests.degrade.toys import classifier

LADDER = {"loss": label_loss, "width": 0.5, "nbetas": [300.0], "steps": 400, "burn_in": 100, "progress": False}
TOKENS = torch.randint(40, (12, 10), generator=torch.Generator().manual_seed(0))
SIZES = {"vocab_size": 40, "hidden_size": 16, "num_hidden_layers": 3, "num_attention_heads": 2,
         "intermediate_size": 24, "max_position_embeddings": 16, "pad_token_id": None}  # fmt: skip
FAMILIES = {
    "gpt2": lambda: GPT2LMHeadModel(GPT2Config(vocab_size=40, n_embd=16, n_layer=3, n_head=2, n_positions=16)),
    "neox": lambda: GPTNeoXForCausalLM(GPTNeoXConfig(**SIZES)),
    "llama": lambda: LlamaForCausalLM(LlamaConfig(**SIZES, num_key_value_heads=1)),
}


def family(name, bridge=False):
    torch.manual_seed(0)
    model = FAMILIES[name]().eval()
    return wrapped(model) if bridge else model


def scene(model, data=TOKENS, loss=next_token_loss, **settings):
    request = Request.of(nbetas=[1.0], width=0.5, evaluation=8, **settings)
    return set_scene(model, select(model), data, loss, request, None, (), False)


def gradient(model, **settings):
    """The rise and the gradient of all data a little away from the model's weights."""
    selection = select(model)
    with lent(model, selection):
        potential = scene(model, **settings).potential
        noise = normal_like(Key(0), "noise", 0, potential.center)
        weights = [c + 0.02 * x for c, x in zip(potential.center, noise, strict=True)]
        return potential.gradient(weights, np.arange(len(potential.data)))


def apart(one, two):
    """How far rises, and gradients in units of the largest, are from each other: the larger of both."""
    (rise, first), (other, second) = one, two
    size = max(float(g.abs().max()) for g in first)
    most = max(float((a - b).abs().max()) for a, b in zip(first, second, strict=True))
    return max(abs(float(rise - other)), most / size)


@pytest.fixture(scope="module")
def trained():
    return classifier()


def test_bfloat16_compute_with_float32_state_is_the_same_law(trained):
    """Rises at one temperature, known to a few per cent each, from independent seeds: within four joint errors."""
    net, data = trained
    plain, rounded = (
        degrade.ladder(net, data, seed=seed, dtype=dtype, **LADDER) for seed, dtype in ((0, None), (1, "bf16"))
    )
    one, two = plain.table.iloc[1], rounded.table.iloc[1]
    assert max(one.rise_se / one.rise, two.rise_se / two.rise) < 0.1
    assert abs(one.rise - two.rise) < 4 * math.hypot(one.rise_se, two.rise_se)
    assert rounded.manifest["settings"]["dtype"] == "bfloat16"


def test_the_state_of_a_bfloat16_chain_is_float32(trained):
    net, data = trained
    ladder = degrade.ladder(net, data, dtype="bf16", **LADDER | {"steps": 40, "burn_in": 8, "draws": 1, "chains": 1})
    weights = next(ladder.draws()).weights[0]
    assert weights.dtype == torch.float32 and not torch.equal(weights, weights.bfloat16().float())
    assert all(p.dtype == torch.float32 for p in net.parameters())


def test_what_bfloat16_rounds_is_the_products(trained):
    net, data = trained
    with lent(net, select(net)):
        potential = scene(net, data, label_loss, dtype="bf16").potential
        assert potential.model(data[0]).dtype == torch.bfloat16
        assert all(g.dtype == torch.float32 for g in potential.gradient(potential.center, np.arange(8))[1])


@pytest.mark.parametrize("size", [1, 5, 12, 100])
def test_gradients_in_parts_are_those_of_the_whole_batch(size):
    assert apart(gradient(family("llama")), gradient(family("llama"), micro_batch=size)) <= 1e-6


def test_gradients_that_share_memory_are_summed_up_apart():
    """The gradients of a sum's two terms are one tensor, and an expanded one has no memory of its own."""
    one, two = (torch.zeros(3, requires_grad=True) for _ in range(2))

    def nats(index):
        return (one + two).sum().expand(len(index))

    _, (first, second) = summed(nats, np.arange(6), [one, two], 2)
    assert torch.equal(first, torch.full((3,), 6.0)) and torch.equal(second, first)


def test_labels_that_the_model_draws_are_drawn_for_each_example_in_parts_too():
    """The gradient at labels drawn from the model averages to 0: means over 400 drawings are within 5 errors."""
    net = nn.Linear(3, 2)
    x = torch.randn(6, 3, generator=torch.Generator().manual_seed(0))
    with lent(net, select(net)):
        potential = scene(net, (x, torch.zeros(6).long()), label_loss, micro_batch=4).potential
        key = torch.Generator().manual_seed(0)
        drawn = [potential.sampled_gradient(potential.center, np.arange(6), key)[1] for _ in range(400)]
    values = torch.stack(drawn)
    assert (values.std(0) > 0.5).all()
    assert (values.mean(0).abs() < 5 * values.std(0) / 20).all()


@pytest.mark.parametrize("bridge", [False, True], ids=["raw", "bridge"])
@pytest.mark.parametrize("name", FAMILIES)
def test_recomputed_gradients_are_the_same(monkeypatch, name, bridge):
    """A bridge too large for its hooks to be left out is recomputed with them."""
    monkeypatch.setattr("degrade.models.SMALL", 0)
    model = family(name, bridge)
    assert apart(gradient(family(name, bridge)), gradient(model, checkpointing=True)) <= 1e-6
    assert not any("forward" in vars(part) for part in model.modules())
    assert getattr(model, "original_model", model).config.use_cache


def test_recomputing_holds_less_for_a_gradient():
    from degrade.timing import held

    model, few = family("gpt2"), {"data": TOKENS}
    with lent(model, select(model)):
        plain, spared = (held(scene(model, checkpointing=flag, **few)) for flag in (False, True))
    assert 0 < spared < 0.7 * plain


def test_the_memory_that_is_planned_follows(monkeypatch):
    """A fifth of a hundred examples at once, or blocks recomputed, take less; what cannot fit is refused."""
    from degrade.memory import TooLargeError
    from degrade.plan import Planned, estimate

    rows = torch.randint(40, (100, 16), generator=torch.Generator().manual_seed(0))
    settings = {"nbetas": [1.0], "width": 0.5, "steps": 16, "burn_in": 4, "draws": 1, "chains": 1, "evaluation": 1}
    plain, parts, spared = (
        estimate(Planned("one", family("gpt2"), rows, None, settings | more)).memory
        for more in ({}, {"micro_batch": 20}, {"checkpointing": True})
    )
    assert parts < plain and spared < plain
    monkeypatch.setattr("degrade.memory.free", lambda device=None: parts)
    with pytest.raises(TooLargeError, match=r"micro_batch \(100 examples at once\).*checkpointing=True"):
        degrade.ladder(family("gpt2"), rows, progress=False, **settings)
    degrade.ladder(family("gpt2"), rows, progress=False, micro_batch=20, batch_size=8, **settings)


def test_blocks_are_the_largest_list_of_like_modules():
    assert len(blocks(family("gpt2"))) == 3
    with pytest.raises(ValueError, match="checkpointing=True, and this Linear has no list of like blocks"):
        degrade.ladder(nn.Linear(4, 2), classifier()[1], checkpointing=True, **LADDER)


@pytest.mark.slow
def test_a_compiled_model_has_the_same_gradients_at_every_batch_size(trained):
    net, data = trained
    with lent(net, select(net)):
        plain, compiled = (scene(net, data, label_loss, compile=flag).potential for flag in (False, True))
        for size in (8, 3, 32):
            ways = (p.gradient(plain.center, np.arange(size)) for p in (plain, compiled))
            assert apart(*ways) <= 1e-5


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"dtype": "float16"}, "dtype='float16'; expected float32, fp32, bfloat16, bf16.*take bf16"),
        ({"dtype": "bf17"}, "dtype='bf17'; expected float32, fp32, bfloat16, bf16, or none"),
        ({"device": "cuda:99"}, "device='cuda:99' is not there; expected one of cpu.*: choose one of these"),
        ({"device": "gpu"}, "device='gpu' is not there; expected one of cpu"),
        ({"micro_batch": 0}, "micro_batch=0; expected at least 1 example at once"),
        ({"compile": True, "checkpointing": True}, "expected one of them: a compiled model decides"),
        ({"compile": "often"}, "compile"),
    ],
)
def test_mistakes(settings, said, trained):
    with pytest.raises(ValueError, match=said):
        degrade.ladder(*trained, **LADDER, **settings)


def test_float32_of_rounded_weights_is_refused(trained):
    net = classifier()[0].bfloat16()
    x, y = trained[1]
    with pytest.raises(ValueError, match=r"dtype='float32', and the model's weights are bfloat16.*model.float\(\)"):
        degrade.ladder(net, (x.bfloat16(), y), dtype="float32", **LADDER)


def test_a_way_that_was_chosen_for_a_block_is_recorded_and_the_calls_own_counts_more(trained):
    brief = LADDER | {"steps": 20, "burn_in": 4, "draws": 1, "chains": 1}
    with computing(Compute(dtype="bf16", micro_batch=16, device="cpu")):
        settings = degrade.ladder(*trained, micro_batch=8, **brief).manifest["settings"]
    assert (settings["dtype"], settings["device"], settings["micro_batch"]) == ("bfloat16", "cpu", 8)
    assert degrade.ladder(*trained, **brief).manifest["settings"]["dtype"] is None


def test_what_was_computed_otherwise_is_named_and_not_reused(monkeypatch, tmp_path):
    with monkeypatch.context() as patch, pytest.raises(ZeroDivisionError):
        patch.setattr("degrade.build.Ladder.save", lambda *_: 1 / 0)
        small(tmp_path / "run")
    with pytest.raises(JournalError, match="setting micro_batch was None, is 4"):
        small(tmp_path / "run", micro_batch=4)


def test_a_computed_model_is_asked_like_the_model_it_holds():
    model = family("llama")
    same = Computed(model, Compute(dtype="bf16"))
    assert same.config is model.config and same.lm_head is model.lm_head
    with pytest.raises(AttributeError, match="no_such_thing"):
        same.no_such_thing  # noqa: B018


def test_a_computed_model_travels(trained):
    """To worker processes, with what it computes with; the results are those of one process."""
    brief = LADDER | {"steps": 20, "burn_in": 4, "draws": 1, "chains": 2}
    one, two = (degrade.ladder(*trained, dtype="bf16", workers=workers, **brief) for workers in (1, 2))
    assert torch.equal(list(one.draws())[1].weights[0], list(two.draws())[1].weights[0])


def test_devices_that_are_there():
    assert present()[0] == "cpu"


def test_recomputed_blocks_keep_a_forward_of_their_own():
    """A block whose forward was replaced by hand answers as it did, before, within and after recomputing."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(3, 4), nn.Sequential(*[nn.Sequential(nn.Linear(4, 4), nn.Tanh()) for _ in range(3)]))
    block = net[1][1]
    own = vars(block)["forward"] = lambda h: 0 * h + 1
    x = torch.randn(5, 3)
    model, first = Computed(net, Compute(checkpointing=True)), net(x)
    assert torch.equal(model(x), first) and torch.equal(model(x), first)
    assert vars(block)["forward"] is own and "forward" not in vars(net[1][0])


def test_a_type_that_would_do_nothing_is_refused():
    for dtype in ("bf16", "float32"):
        with pytest.raises(ValueError, match="weights are float64.*model.float"):
            computed(nn.Linear(2, 2).double(), Compute(dtype=dtype))
