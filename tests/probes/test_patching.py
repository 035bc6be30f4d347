"""Patching against exact laws, a hand-written loop of torch hooks, and transformer-lens's own helpers."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from probes import Patching
from probes.hooks import record
from probes.patching import ROLES
from tests.probes import toys

PAIRS = toys.Corpus().pairs(6, seed=3)
SUBMODULE = {
    "resid_pre": lambda layer: layer,
    "attn_out": lambda layer: layer.self_attn,
    "mlp_out": lambda layer: layer.mlp,
}


@pytest.fixture(scope="module")
def table(model):
    return Patching(*PAIRS)(model)


def rows(table, measure, **keys):
    kept = table[table["measure"] == measure]
    for key, value in keys.items():
        kept = kept[kept[key] == value]
    return kept


def difference(scores, pairs=PAIRS):
    at_answer = scores[torch.arange(len(scores)), pairs.position]
    right, wrong = (at_answer.gather(1, token[:, None])[:, 0] for token in (pairs.answer, pairs.wrong))
    return (right - wrong).detach().double().numpy()


class Slow:
    """One run per cell on an unwrapped Hugging Face model, with torch's own hooks."""

    def __init__(self, site, layer):
        self.model, self.site = toys.llama(), site
        self.module = SUBMODULE[site](self.model.model.layers[layer])

    @torch.no_grad()
    def activation(self, tokens):
        kept = []
        self.run(tokens, kept.append)
        return kept[0].clone()

    @torch.no_grad()
    def run(self, tokens, edit):
        """`edit` may return a new activation."""

        def before(module, args):
            new = edit(args[0])
            return None if new is None else (new, *args[1:])

        def after(module, args, output):
            new = edit(output[0] if isinstance(output, tuple) else output)
            return output if new is None else (new, *output[1:]) if isinstance(output, tuple) else new

        add = self.module.register_forward_pre_hook if self.site == "resid_pre" else self.module.register_forward_hook
        handle = add(before if self.site == "resid_pre" else after)
        scores = self.model(tokens).logits
        handle.remove()
        return scores

    def patched(self, base, values, position):
        def edit(activation):
            new = activation.clone()
            new[:, position] = values[:, position]
            return new

        return difference(self.run(base, edit))


@pytest.mark.parametrize("direction", ["denoise", "noise"])
@pytest.mark.parametrize("site", ["resid_pre", "attn_out", "mlp_out"])
def test_every_cell_equals_a_slow_loop_of_plain_hooks(model, site, direction):
    found = Patching(*PAIRS, sites=(site,), direction=direction)(model)
    source, base = (PAIRS.clean, PAIRS.corrupted) if direction == "denoise" else (PAIRS.corrupted, PAIRS.clean)
    for layer in (0, 1):
        slow = Slow(site, layer)
        values = slow.activation(source)
        expected = np.stack([slow.patched(base, values, position) for position in range(toys.LENGTH - 3)], axis=1)
        fast = rows(found, "logit_diff", layer=layer).pivot(index="example", columns="position", values="value")
        np.testing.assert_allclose(fast.to_numpy(), expected, rtol=0, atol=1e-4)  # float32 logits of order ten


def test_agrees_with_the_helpers_of_transformer_lens(model, table):
    from transformer_lens import patching

    _, cache = model.run_with_cache(PAIRS.clean)
    for site in ("resid_pre", "attn_out", "mlp_out"):
        sweep = getattr(patching, f"get_act_patch_{site}")
        result = sweep(
            model, PAIRS.corrupted, cache, lambda scores: torch.from_numpy(difference(scores)), reduce="none"
        )
        mine = rows(table, "logit_diff", site=site).pivot(
            index=["layer", "position"], columns="example", values="value"
        )
        theirs = result.values[:, : toys.LENGTH - 3].flatten(0, 1)
        np.testing.assert_allclose(mine.to_numpy(), theirs.numpy(), rtol=0, atol=1e-4)


def test_baselines_are_the_unpatched_runs(model, table):
    for measure, tokens in (("clean", PAIRS.clean), ("corrupted", PAIRS.corrupted)):
        scores, _ = record(model, tokens, [])
        np.testing.assert_allclose(rows(table, measure)["value"], difference(scores), rtol=0, atol=1e-4)


def test_the_whole_difference_enters_at_the_changed_token_of_layer_zero(table):
    """Only there do the embeddings differ: patching it is the clean run, patching any other token the corrupted one."""
    first = rows(table, "logit_diff", site="resid_pre", layer=0)
    clean, corrupted = (rows(table, measure).set_index("example")["value"] for measure in ("clean", "corrupted"))
    here = first[first["role"] == "changed"]
    np.testing.assert_allclose(here["value"], clean[here["example"]], rtol=0, atol=1e-4)
    there = first[first["role"] != "changed"]
    assert (there["value"].to_numpy() == corrupted[there["example"]].to_numpy()).all()
    assert rows(table, "role recovery", site="resid_pre", layer=0, role="changed")["value"].item() == pytest.approx(
        1, abs=1e-4
    )


def test_positions_before_the_change_are_the_base_run(table):
    changed = (PAIRS.clean != PAIRS.corrupted).int().argmax(1).numpy()
    cells = rows(table, "logit_diff")
    before = cells[cells["position"].to_numpy() < changed[cells["example"]]]
    corrupted = rows(table, "corrupted").set_index("example")["value"]
    assert len(before) and (before["value"].to_numpy() == corrupted[before["example"]].to_numpy()).all()


def test_noising_in_the_other_direction_is_denoising_with_the_runs_swapped(model):
    swapped = Patching(PAIRS.corrupted, PAIRS.clean, PAIRS.position, PAIRS.wrong, PAIRS.answer)
    noised = Patching(*PAIRS, direction="noise")
    a, b = (rows(probe(model), "logit_diff")["value"].to_numpy() for probe in (swapped, noised))
    np.testing.assert_array_equal(a, -b)


def test_recovery_is_the_ratio_of_means(table):
    clean, corrupted = (rows(table, measure)["value"].mean() for measure in ("clean", "corrupted"))
    cells = rows(table, "logit_diff").groupby(["site", "layer", "position"], sort=False)["value"].mean()
    expected = (cells - corrupted) / (clean - corrupted)
    found = rows(table, "recovery").set_index(["site", "layer", "position"])["value"]
    np.testing.assert_allclose(found, expected.loc[found.index], rtol=1e-12)


@pytest.mark.parametrize("direction", ["denoise", "noise"])
def test_effect_is_the_mean_change_of_the_run_patched_into(model, direction):
    found = Patching(*PAIRS, direction=direction)(model)
    base = rows(found, "corrupted" if direction == "denoise" else "clean").set_index("example")["value"]
    cells = rows(found, "logit_diff")
    change = cells.assign(value=cells["value"].to_numpy() - base.loc[cells["example"]].to_numpy())
    expected = change.groupby(["site", "layer", "role"])["value"].mean()
    effect = rows(found, "role effect").set_index(["site", "layer", "role"])["value"]
    np.testing.assert_allclose(effect, expected.loc[effect.index], rtol=0, atol=1e-12)


@pytest.mark.parametrize("positions", ["changed", "answer", (2, 5)])
def test_restricted_positions_give_the_same_cells(model, table, positions):
    fewer = rows(Patching(*PAIRS, positions=positions)(model), "logit_diff")
    keys = ["site", "layer", "position", "example"]
    everything = rows(table, "logit_diff").set_index(keys)["value"]
    assert 0 < len(fewer) < len(everything)
    wanted = everything.loc[list(fewer[keys].itertuples(index=False, name=None))]
    np.testing.assert_allclose(fewer["value"], wanted, rtol=0, atol=1e-4)  # other batch sizes, other rounding
    if isinstance(positions, str):
        assert set(fewer["role"]) == {positions}
    else:
        assert set(fewer["position"]) == set(positions)


def test_a_model_of_equal_widths_is_patched_exactly():
    """d_vocab equal to d_model misleads compatibility mode; probes never enter it."""
    square = toys.bridge(d_model=toys.VOCABULARY, heads=2)
    found = rows(Patching(*PAIRS, sites=("resid_pre",))(square), "role recovery", layer=0, role="changed")
    assert found["value"].item() == pytest.approx(1, abs=1e-4)
    assert not square.compatibility_mode


def test_a_model_that_cannot_tell_the_prompts_apart_has_no_recovery():
    blank = toys.bridge()
    with torch.no_grad():
        blank.original_model.lm_head.weight.zero_()
    found = Patching(*PAIRS)(blank)
    assert set(found["measure"]) == {"clean", "corrupted", "logit_diff", "role effect"}
    assert (found["value"] == 0).all()


def test_the_claim_names_the_block_and_needs_most_pairs_answered(model):
    probe = replace(Patching(*PAIRS), route=(1, 1))
    answers = probe(model)

    def told(clean, corrupted, changed_one, answer_one):
        changed = answers.copy()
        entering = (answers["measure"] == "role recovery") & (answers["site"] == "resid_pre") & (answers["layer"] == 1)
        changed.loc[entering & (answers["role"] == "changed"), "value"] = changed_one
        changed.loc[entering & (answers["role"] == "answer"), "value"] = answer_one
        changed.loc[answers["measure"] == "clean", "value"] = clean
        changed.loc[answers["measure"] == "corrupted", "value"] = corrupted
        changed.loc[(answers["measure"] == "clean") & (answers["example"] == 0), "value"] = -1.0  # one of six may fail
        return probe.claim().check(changed)

    assert probe.claim().statement.endswith("in block 1 and arrives in block 1")
    assert told(2.0, -2.0, 0.9, 0.1)
    assert not told(2.0, -2.0, 0.3, 0.1)  # no longer at the changed token when block 1 begins
    assert not told(2.0, -2.0, 0.9, 0.9)  # arrives in block 0
    assert not told(2.0, 0.5, 0.9, 0.1)  # the corrupted prompt no longer draws the wrong answer


def test_the_built_claim_is_about_the_route_found_in_the_model(model):
    probe = Patching.build(toys.subject(model), n=4)
    stream = rows(probe(model), "role recovery", site="resid_pre", layer=1).set_index("role")["value"]
    assert probe.route == (int(stream["changed"] >= 0.5), int(stream["answer"] < 0.5))
    assert f"arrives in block {probe.route[1]}" in probe.claim().statement


def test_roles_are_counted_from_the_changed_token_and_to_the_answer():
    one = Patching(*(part[:1] for part in PAIRS))
    where, last = int((PAIRS.clean[0] != PAIRS.corrupted[0]).int().argmax()), toys.LENGTH - 4
    expected = {where: "changed", where + 1: "changed+1", where + 2: "changed+2"}
    expected |= {last - steps: f"answer-{steps}" for steps in (1, 2, 3)} | {last: "answer"}
    found = one._roles(last + 1)[0]
    for place, role in enumerate(found):
        assert role == expected.get(place, "before" if place < where else "between")
        assert role in ROLES


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"clean": PAIRS.clean[:, :-1]}, r"equal shapes .* \(6, 15\) and \(6, 16\): .* equally long"),
        ({"sites": ("stream",)}, "'stream'.* resid_pre, resid_mid, resid_post, attn_out, mlp_out, q, k, v, z, pattern"),
        ({"metrics": ("accuracy",)}, "'accuracy'.* logit_diff, probability, kl, loss"),
        ({"positions": "last"}, "'last'; choose from all, changed, answer"),
        ({"positions": (99,)}, r"0..15, got \(99,\)"),
        ({"direction": "both"}, "'both'; choose from denoise, noise"),
        ({"position": PAIRS.position + 9}, r"0..15"),
        ({"answer": PAIRS.answer[:2]}, r"answer must have shape \(6,\), one entry for each pair; got \(2,\)"),
        ({"corrupted": PAIRS.clean}, r"pairs \[0, 1, 2, 3, 4, 5\] .* drop them"),
    ],
)
def test_bad_input_is_refused_with_value_and_cure(change, message):
    with pytest.raises(ValueError, match=message):
        Patching(**({"clean": PAIRS.clean, **PAIRS._asdict()} | change))


def test_a_claim_without_its_measurement_says_what_to_do():
    with pytest.raises(ValueError, match="Patching.build"):
        Patching(*PAIRS).claim()
    with pytest.raises(ValueError, match="direction='noise'"):
        Patching(*PAIRS, route=(0, 0), direction="noise").claim()
