"""λ at two temperatures: exact on deep linear networks, planted scales and changes found, nulls left alone."""

import math
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from scipy import stats
from torch import nn

from degrade.build import ladder as climb_ladder
from degrade.compute import Compute, computing
from degrade.journal import opened
from probes import sweep
from studies import temperatures_sampling
from studies.figures.style import png
from studies.figures.temperatures import complexity, training_complexity
from studies.temperatures_changes import changes, levels, mean_of, swaps
from studies.temperatures_findings import finding, verdicts
from studies.temperatures_jobs import FULL, kinds_of, side_jobs, some, step_of, units
from studies.temperatures_parts import Pulls, families, size
from studies.temperatures_reading import over_training, read
from studies.temperatures_sampling import Job, carry_out, example_rows, kind_rows, part_rows, whole_rows
from studies.temperatures_scales import NATURAL, WATANABE, Temperature, at, natural, watanabe
from tests.probes import toys

SHORT = {"steps": 60, "burn_in": 20, "chains": 2, "draws": 2, "evaluation": 32, "progress": False}
COLD, HOT = 1000.0, 100.0
TWO = [Temperature(WATANABE, COLD, COLD, COLD), Temperature(NATURAL, HOT, HOT, HOT)]


class Blocks(nn.Module):
    """L = mean over x of ½ Σ_b ‖w_b − x_b‖² h_b: two parts, exactly quadratic."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(4, 1, bias=False), nn.Linear(4, 1, bias=False)
        for part in (self.first, self.second):
            part.weight.data.fill_(1.0)

    def forward(self, x):
        moved = torch.cat([self.first.weight[0], self.second.weight[0]]) - 1
        curvature = torch.tensor([1.0] * 4 + [0.1] * 4)
        return 0.5 * (curvature * moved**2).sum() + x @ moved


def nats(model, x):
    return model(x)


def blocks():
    x = torch.randn(256, 8, generator=torch.Generator().manual_seed(0)) * 0.3
    return Blocks(), x - x.mean(0)


def exact_part(curvature, nbeta, gamma):
    return 0.5 * 4 * nbeta * curvature / (nbeta * curvature + gamma)


def planted(values, chains=8, seed=0, noise=0.02, family="layers", question="ladder", nbetas=(COLD, HOT)):
    """Rows of parts whose λ is `values[part][temperature]`, with noise of each chain's own."""
    rng, rows = np.random.default_rng(seed), []
    for part, levels_ in values.items():
        for rung, (nbeta, level) in enumerate(zip(nbetas, levels_, strict=True), start=1):
            for chain in range(chains):
                llc = level * math.exp(noise * rng.standard_normal())
                rows.append({"question": question, "family": family, "part": part, "rung": rung, "nbeta": nbeta,
                             "chain": chain, "llc": llc, "shared": 0.0, "rise": llc / nbeta,
                             "heldout_rise": 0.8 * llc / nbeta, "verdict": "ok", "n": 1e4, "width": 0.3})  # fmt: skip
    return pd.DataFrame(rows)


def whole(values=(50.0, 20.0), nbetas=(COLD, HOT), **settings):
    return planted({"whole": values}, family="whole", nbetas=nbetas, **settings)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["3-2-3", "2-2-2-2"])
def test_exact_coefficients_of_a_deep_linear_network_at_both_temperatures(name):
    """n / ln n and the temperature of a gap that is the exact rise at a fifth of it, both by the study's own path."""
    from tests.truths.test_linear_networks import NETWORKS, layers_of, network, reference, squares

    n, gamma = 8000.0, 100.0
    cold = watanabe(n)
    model, data = network(layers_of(*NETWORKS[name]), noise=1.0)
    settings = {"gamma": gamma, "chains": 8, "steps": 3000, "burn_in": 600, "draws": 1, "seed": 0}
    nbetas = [cold.nbeta, cold.nbeta / 4, cold.nbeta / 16]
    rows = whole_rows(climb_ladder(model, data, nbetas=nbetas, loss=squares, progress=False, **settings), "ladder")
    gap = reference(name, cold.nbeta / 5, gamma)[0] / (cold.nbeta / 5)
    hot = natural(rows, gap, axis="rise")
    assert hot.low < cold.nbeta / 5 < hot.high
    job = Job("refined", "whole", (cold.nbeta, hot.nbeta), settings, {})
    for found in (rows, carry_out(model, data, [job], squares, progress=False)[0].rows):
        table = levels(found, [cold, hot])
        for row in table.itertuples():
            exact, error = reference(name, row.nbeta, gamma)
            assert abs(row.llc - exact) < 3 * math.hypot(row.se, error), (row, exact)


def test_between_rungs_a_bent_curve_is_read_off_exactly():
    """ln λ a parabola in ln nβ, as of a basin that the neighbourhood cuts off; a straight line misses it by 3 %."""
    nbetas = (1600.0, 400.0, 100.0)
    places = (*nbetas, 200.0)
    exact = {nbeta: math.exp(1 + 0.3 * math.log(nbeta) - 0.04 * math.log(nbeta / 200) ** 2) for nbeta in places}
    rows = whole([exact[nbeta] for nbeta in nbetas], nbetas, noise=0.0)
    assert natural(rows, exact[200.0] / 200, axis="rise").nbeta == pytest.approx(200, rel=1e-6)
    np.testing.assert_allclose(at(rows, 200.0)["llc"], exact[200.0], rtol=1e-9)
    straight = natural(rows[rows["nbeta"] < 1000], exact[200.0] / 200, axis="rise")
    assert straight.nbeta == pytest.approx(0.973 * 200, rel=0.01)  # two rungs alone cannot know


def test_parts_add_up_to_the_whole_of_a_quadratic_on_every_draw():
    model, x = blocks()
    ladder = climb_ladder(model, x, nbetas=[100.0, 30.0], loss=nats, gamma=1.0, **SHORT)
    table = sweep(ladder, [Pulls.of(model, x, nats)], progress=False)
    for draw in ladder.draws():
        mine = table[(table.rung == draw.rung) & (table.chain == draw.chain) & (table.draw == draw.index)]
        with ladder.applied(draw), torch.no_grad():
            moved = [part.weight[0] - 1 for part in (model.first, model.second)]
        rise = 0.5 * float(moved[0].square().sum() + 0.1 * moved[1].square().sum())
        linear = 0.5 * float(x.mean(0) @ torch.cat(moved))
        assert mine.value.sum() == pytest.approx(rise + linear, abs=1e-6)
    assert (table[table.rung == 0].value == 0).all()


def test_parts_have_the_exact_coefficients_of_a_quadratic():
    """16 chains, 500 steps, all data in a batch: within 4.5 standard errors of ½ d nβ h / (nβ h + γ)."""
    model, x = blocks()
    ladder = climb_ladder(model, x, nbetas=[100.0], loss=nats, gamma=1.0, steps=500, burn_in=100, chains=16, draws=16,
                          evaluation=16, batch_size=256, progress=False)  # fmt: skip
    rows = part_rows(ladder, sweep(ladder, [Pulls.of(model, x, nats)], progress=False), "ladder")
    for part, curvature in (("first", 1.0), ("second", 0.1)):
        found = mean_of(rows[rows.part == part].llc.to_numpy())
        assert abs(found.mean - exact_part(curvature, 100.0, 1.0)) < 4.5 * found.se


def test_pulls_leave_the_model_as_it_was():
    model, x = blocks()
    model.first.weight.requires_grad_(False)
    pulls = Pulls.of(model, x, nats)
    model.second.weight.data += 0.1
    with torch.no_grad():
        first, second = pulls(model), pulls(model)
    pd.testing.assert_frame_equal(first, second)
    assert not model.first.weight.requires_grad and model.first.weight.grad is None
    assert first.set_index("part").value["second"] == pytest.approx(0.5 * 0.1 * 4 * 0.1**2, rel=1e-4)


def test_layers_are_a_partition_and_heads_lie_within_them():
    model = toys.bridge()
    named, found = dict(model.named_parameters()), families(model)
    total = sum(p.numel() for p in named.values())
    assert total * 0.97 <= sum(size(named, masks) for masks in found["layers"].values()) <= total
    assert set(found["layers"]) >= {"layer 0", "layer 1"}
    assert set(found["heads"]) == {f"L{layer}{part}" for layer in (0, 1) for part in ("H0", "H1", " MLP")}
    for layer in (0, 1):
        inside = [masks for part, masks in found["heads"].items() if part.startswith(f"L{layer}")]
        norms = sum(p.numel() for name, p in named.items() if name in found["layers"][f"layer {layer}"] and p.ndim < 2)
        assert sum(size(named, masks) for masks in inside) == size(named, found["layers"][f"layer {layer}"]) - norms


def test_whole_rows_are_the_chains_of_the_ladder():
    model, x = blocks()
    ladder = climb_ladder(model, x, nbetas=[100.0, 30.0], loss=nats, gamma=1.0, **SHORT)
    rows = whole_rows(ladder, "ladder")
    assert rows.groupby("rung").llc.mean().to_numpy() == pytest.approx(ladder.table.llc[1:].to_numpy(), rel=1e-6)
    each = rows.groupby("rung").agg(llc=("llc", "mean"), shared=("shared", "mean"))
    known = ladder.table.rise_se[1:].to_numpy() * ladder.table.llc[1:].to_numpy() / ladder.table.rise[1:].to_numpy()
    se = np.hypot(known, each.shared * each.llc)
    assert se.to_numpy() == pytest.approx(ladder.table.llc_se[1:].to_numpy(), rel=1e-6)
    single = example_rows(ladder, np.arange(256) % 3)
    sums = single.groupby(["rung", "chain"]).llc.sum().groupby("rung").mean()
    measured = (ladder.table.nbeta * ladder.table.evaluation_rise)[1:].to_numpy()
    assert sums.to_numpy() == pytest.approx(measured, rel=1e-4)
    kinds = kind_rows(single)
    assert set(kinds.part) == {"0", "1", "2"}
    assert kinds.llc.sum() == pytest.approx(single.llc.sum())


def test_jobs_give_the_same_wherever_they_run_and_are_computed_as_was_asked():
    model, x = blocks()
    settings = {name: value for name, value in SHORT.items() if name != "progress"} | {"gamma": 1.0}
    masks = {"first.weight": None}
    jobs = [Job("refined", "first", (100.0, 30.0), settings, {"n": 256}, masks),
            Job("rows", "half", (50.0,), settings, {"n": 128}, rows=np.arange(128)),
            Job("checkpoints", "moved", (50.0,), settings, {"step": 3}, asked=x[:32],
                weights={name: p.detach() + 0.5 for name, p in model.named_parameters()})]  # fmt: skip
    before = [p.clone() for p in model.parameters()]
    here = carry_out(model, x, jobs, nats, progress=False)
    there = carry_out(model, x, jobs, nats, workers=2, progress=False)
    for one, two in zip(here, there, strict=True):
        pd.testing.assert_frame_equal(one.rows, two.rows)
    with computing(Compute(dtype="bf16")):
        rounded = [carry_out(model, x, jobs[:2], nats, workers=workers, progress=False) for workers in (1, 2)]
    for one, two, full in zip(*rounded, here[:2], strict=True):
        pd.testing.assert_frame_equal(one.rows, two.rows)
        assert (one.rows.llc != full.rows.llc).all()
    assert all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))
    assert set(here[2].rows.part) == {"whole", "moved", "first", "second"} - {"whole"}
    assert here[2].rows[here[2].rows.part == "moved"].llc.mean() < 0  # no minimum: the loss falls


@pytest.mark.parametrize("workers", [1, pytest.param(3, marks=pytest.mark.slow)])
def test_jobs_that_were_stopped_between_two_go_on_to_the_same_rows(workers, tmp_path, monkeypatch):
    """In this process, one after another; more workers than jobs share out a job's chains."""
    model, x = blocks()
    settings = {name: value for name, value in SHORT.items() if name != "progress"} | {"gamma": 1.0}
    jobs = [Job("rows", "all", (100.0,), settings, {"n": 256}), Job("rows", "half", (50.0,), settings, {"n": 128})]
    uninterrupted = carry_out(model, x, jobs, nats, progress=False)
    plain = temperatures_sampling.whole_rows
    monkeypatch.setattr(temperatures_sampling, "whole_rows", stopping_at("half", plain))
    with pytest.raises(KeyboardInterrupt), opened(tmp_path / "run"):
        carry_out(model, x, jobs, nats, workers=workers, progress=False)
    monkeypatch.setattr(temperatures_sampling, "whole_rows", plain)
    with opened(tmp_path / "run"):
        again = carry_out(model, x, jobs, nats, workers=workers, progress=False)
    for one, two in zip(uninterrupted, again, strict=True):
        pd.testing.assert_frame_equal(one.rows, two.rows)


def stopping_at(part, plain):
    """`whole_rows`, interrupted at one part."""

    def interrupted(ladder, question, family, name):
        if name == part:
            raise KeyboardInterrupt
        return plain(ladder, question, family, name)

    return interrupted


@pytest.mark.parametrize("slope", [0.4, 0.9])
def test_the_natural_temperature_is_read_off_where_the_law_is_a_power(slope):
    nbetas = (1e5, 1e4, 1e3)
    rows = whole(tuple(nbeta * nbeta**-slope for nbeta in nbetas), nbetas, noise=0.0)
    place = 3e4
    found = natural(rows, 0.8 * place**-slope)
    assert found.nbeta == pytest.approx(place) and found.low == pytest.approx(found.high)
    assert natural(rows, place**-slope, axis="rise").nbeta == pytest.approx(place)
    wide = natural(rows, place**-slope, 0.1 * place**-slope, axis="rise")
    assert math.log(wide.high / place) == pytest.approx(stats.t.ppf(0.975, 7) * 0.1 / slope, rel=1e-6)
    outside = natural(rows, 100.0)
    assert math.isnan(outside.nbeta) and "hotter than nβ = 1,000" in outside.note
    assert "colder than nβ = 100,000" in natural(rows, 1e-9).note


def test_between_rungs_coefficients_are_read_off_the_power_law_and_nowhere_else():
    nbetas = (1e5, 1e3)
    rows = whole(tuple(nbeta**0.5 for nbeta in nbetas), nbetas, noise=0.0).assign(verdict=["suspect"] * 8 + ["ok"] * 8)
    here = at(rows, 1e4)
    assert here.llc.to_numpy() == pytest.approx(100.0) and set(here.verdict) == {"suspect"}
    assert at(rows, 1e6).empty and at(rows, math.nan).empty
    assert at(rows.assign(verdict="failed"), 1e4).empty
    negative = rows.assign(llc=np.where(rows.nbeta > 1e4, -10.0, 10.0))
    assert at(negative, 1e4).llc.to_numpy() == pytest.approx(0.0)


def test_a_planted_change_of_share_and_order_is_found():
    table = planted({"a": (50.0, 10.0), "b": (30.0, 30.0), "c": (20.0, 20.0)})
    found = changes(table, COLD, HOT).set_index("part")
    assert found.changed.all()
    assert (found.before["a"], found.after["a"]) == (pytest.approx(0.5, abs=0.02), pytest.approx(1 / 6, abs=0.02))
    assert found.change_low["a"] < 1 / 6 - 0.5 < found.change_high["a"]
    assert (found.rank_before["a"], found.rank_after["a"]) == (1.0, 3.0) and found.rank_p["a"] == 2.0**-7
    pairs = swaps(table, COLD, HOT)
    swapped = {(row.first, row.second) for row in pairs[pairs.swapped].itertuples(index=False)}
    assert swapped == {("a", "b"), ("a", "c")}


def test_false_calls_where_nothing_changes_stay_nominal():
    """60 nulls of six parts: those with a call at most at the 99.9 % point of a binomial with 5 %."""
    levels_ = {name: (10.0 * k, 10.0 * k) for k, name in enumerate("abcdef", start=1)}
    wrong = sum(changes(planted(levels_, 4, seed, 0.1), COLD, HOT).changed.any() for seed in range(60))
    assert wrong <= stats.binom.ppf(0.999, 60, 0.05)


def test_errors_that_chains_share_widen_what_they_touch():
    table = planted({"a": (50.0, 10.0), "b": (30.0, 30.0)}, question="refined")
    wide = table.assign(shared=np.where(table.part == "a", 0.1, 0.0))
    one, two, same = (changes(t, COLD, HOT).set_index("part") for t in (table, wide, wide.assign(question="ladder")))
    assert (two.change_high - two.change_low > one.change_high - one.change_low).all()
    assert same.change_high.tolist() == one.change_high.tolist()  # one law, whose error cancels in shares
    first = levels(wide, TWO[:1]).set_index("part")
    assert first.se["a"] == pytest.approx(math.hypot(0.1 * first.llc["a"], levels(table, TWO[:1]).se[0]), rel=1e-6)


def test_subsets_are_nested_and_count_as_the_loss_does():
    tokens = torch.arange(320).view(40, 8)
    half, quarter = (set(some(tokens, share, 0)[1]) for share in (0.5, 0.25))
    assert quarter < half and len(half) == 20
    assert units(tokens) == 40 * 7
    assert units({"input_ids": tokens, "labels": tokens.masked_fill(tokens % 8 < 6, -100)}) == 80
    assert some(tokens, 1.0, 0)[0] is tokens
    sample = SimpleNamespace(kind=np.array(["x", "y", "x"]), copies=np.array([0, 0, 4]))
    organism = SimpleNamespace(corpus=SimpleNamespace(training=lambda: sample))
    assert kinds_of(organism, np.array([0, 2])).tolist() == ["x", "canary"]


def test_side_jobs_ask_parts_and_widths_at_both_temperatures_and_subsets_at_their_own():
    size_ = FULL.at(["layers"], [0.5, 2], None, 1.0, None)
    data = torch.zeros(64, 8, dtype=torch.long)
    jobs = side_jobs(toys.bridge(), data, TWO, size_, seed=0)
    by = {name: [job for job in jobs if job.question == name] for name in ("refined", "rows", "widths")}
    assert all(job.nbetas == (COLD, HOT) for job in by["refined"] + by["widths"])
    assert [job.nbetas[0] for job in by["rows"]] == [pytest.approx(watanabe(n).nbeta) for n in (112, 28)]
    assert {job.settings["width"] for job in by["widths"]} == {0.16, 0.64}
    assert FULL.at("heads", 2, 0.1, 1.0, 1).widths == (2.0,)
    with pytest.raises(ValueError, match="unknown family 'neurons'"):
        FULL.at("neurons", None, None, 1.0, None)
    with pytest.raises(ValueError, match="rows=2 of the training set; expected a share"):
        FULL.at(None, None, None, 1.0, 2)
    assert "n = 20,000, is 2,019" in watanabe(100.0, 20_000.0).note and not watanabe(100.0, 100.0).note


def table_of(hot=HOT, note=""):
    """What the study returns, planted: a ladder with parts and kinds, refined layers, subsets, widths."""
    scales = pd.DataFrame([TWO[0], TWO[1]._replace(nbeta=hot, low=0.9 * hot, high=1.1 * hot, note=note)])
    frames = [
        whole(), planted({"layer 0": (30.0, 15.0), "layer 1": (20.0, 5.0)}),
        planted({"x": (10.0, 8.0), "y": (40.0, 12.0), "canary": (5.0, 1.0)}, family="kinds"),
        planted({str(k): (k + 1.0, k + 1.0) for k in range(12)}, family="examples"),
        planted({"layer 0": (25.0, 14.0), "layer 1": (15.0, 4.0)}, question="refined"),
        whole((18.0,), (HOT,), question="rows").assign(n=1e3, part="n = 1000"),
        whole((40.0, 15.0), question="widths").assign(width=0.15),
        scales.rename(columns={"name": "part"}).assign(question="temperature"),
        pd.DataFrame([{"question": "gap", "part": "exact gap", "llc": 0.16, "shared": 0.01, "note": "heldout"}]),
    ]  # fmt: skip
    return pd.concat(frames, ignore_index=True)


def test_what_was_found_is_said_and_drawn():
    table = table_of()
    found, said = read(table), finding(table)
    text = " ".join(said)
    assert "factor of 10" in text and "λ of the whole model is" in text
    assert said[-1].startswith(("Not decided", "Nothing that was asked"))
    assert found.rows.log_ratio.iloc[-1] == pytest.approx(math.log(18 / 20), abs=0.05)
    assert found.widths.set_index("width").after[0.15] == pytest.approx(15.0, rel=0.05)
    assert found.examples[0].mean > 0.99
    assert len(verdicts(table)) == 1 + 2 + 4 + 1 + 2
    assert len(png(complexity(found))) > 10_000


def test_without_a_natural_temperature_the_study_says_so():
    table = table_of(math.nan, "the gap is outside")
    text = " ".join(finding(table))
    assert (
        "is not known: the gap is outside" in text
        and "Not decided: λ and the shares of its parts at the natural gap" in text
    )
    assert len(png(complexity(read(table)))) > 5_000


def test_negative_rises_and_coefficients_are_drawn_where_they_can_be():
    table = table_of()
    fell = table["nbeta"].eq(COLD) & table["family"].eq("whole")
    table.loc[fell, ["llc", "rise", "heldout_rise"]] *= -1
    assert len(png(complexity(read(table)))) > 10_000


def test_a_ladder_of_failed_rungs_is_drawn_and_said():
    table = table_of(math.nan, "no rung can be used")
    table.loc[table["verdict"].notna(), "verdict"] = "failed"
    assert finding(table)[0].startswith("No rung can be used")
    assert len(png(complexity(read(table)))) > 5_000


def test_a_run_is_written_and_drawn_again_from_its_tables(tmp_path):
    from studies import temperatures

    model, x = blocks()
    settings = {name: value for name, value in SHORT.items() if name != "progress"} | {"gamma": 1.0}
    ladder = climb_ladder(model, x, nbetas=[100.0, 30.0], loss=nats, progress=False, **settings)
    done = carry_out(model, x, [Job("rows", "half", (50.0,), settings, {"n": 128})], nats, progress=False)
    temperatures._write(tmp_path / "run", [ladder], done, table_of(), {"model": "blocks"})
    page = (tmp_path / "run" / "report.html").read_text()
    assert "n / ln n is nβ = 1,000" in page and "rows: half" in page
    assert {path.name for path in (tmp_path / "run" / "figures").iterdir()} >= {"complexity.png", "traces.png"}
    assert temperatures.report(tmp_path / "run").read_text() == page


def test_training_is_read_in_the_order_of_steps():
    before = [planted({"whole": (5.0 * k, 4.0 * k)}, family="whole", question="checkpoints").assign(step=10 * k)
              for k in (3, 1)]  # fmt: skip
    parts = [{"layer 0": (3.0 * k, 2.0), "layer 1": (2.0 * k, 2.0)} for k in (1, 3)]
    layers = [planted(one, question="checkpoints").assign(step=10 * k) for one, k in zip(parts, (1, 3), strict=True)]
    table = pd.concat([table_of(), *before, *layers], ignore_index=True)
    rows = over_training(table)
    line = rows[(rows.family == "whole") & (rows["at"] == WATANABE)]
    assert line.step.tolist()[:2] == [10.0, 30.0] and math.isnan(line.step.iloc[-1])
    assert any("over training" in sentence for sentence in finding(table))
    assert len(png(training_complexity(rows))) > 10_000


def test_a_step_is_in_the_name(tmp_path):
    assert step_of(tmp_path.joinpath("x") / "step-00375") == 375


def test_checkpoints_are_kept_on_the_way_without_changing_it(tmp_path):
    from studies.dials_checkpoints import found
    from studies.organisms.mixture import mixture
    from studies.organisms.mixture.train import RECIPES, train
    from studies.temperatures_jobs import weights_of

    recipe = replace(RECIPES["small"], width=16, hidden=8, steps=4)
    alone = train(recipe, mixture.corpus, tmp_path / "a", every=9)
    kept = train(recipe, mixture.corpus, tmp_path / "b", every=9, checkpoints=tmp_path / "steps")
    assert all(torch.equal(a, b) for a, b in zip(alone.parameters(), kept.parameters(), strict=True))
    folders = found(None, tmp_path / "steps")
    assert [step_of(folder) for folder in folders] == [1, 2]
    weights = weights_of(folders[-1])
    assert {value.dtype for value in weights.values()} == {torch.float32}
    assert sum(value.numel() for value in weights.values()) == sum(p.numel() for p in kept.parameters())
