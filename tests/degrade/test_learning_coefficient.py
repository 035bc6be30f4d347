import math
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch

import degrade
from degrade.diagnostics import Estimate, coefficient
from degrade.preconditioners import PRECONDITIONERS
from tests.degrade.toys import Quadratic, classifier, quadratic, quadratic_loss

SHORT = {"steps": 60, "burn_in": 20, "chains": 2, "draws": 1, "evaluation": 64, "progress": False}


def exact_llc(h, nbeta, gamma):
    """λ = ½ Σ nβ h / (nβ h + γ)."""
    h = h.double()
    return float((nbeta * h / (nbeta * h + gamma)).sum() / 2)


def small(**settings):
    """20 curvatures from 1 to 1/100 at nβ = 100: a minibatch of 64 of 2000 examples."""
    net, x = quadratic(cond=100, d=20, examples=2000)
    given = {"nbeta": 100.0, "loss": quadratic_loss, "gamma": 1.0, "batch_size": 64} | SHORT | settings
    given = {name: value for name, value in given.items() if value is not None}
    return net, degrade.llc(net, x, **given)


def test_a_quadratic_has_its_exact_coefficient():
    net, result = small(steps=600, burn_in=150, chains=8, batch_size=2000)
    exact = exact_llc(net.h, 100.0, 1.0)
    assert result.se < 0.05 * exact
    assert abs(result.llc - exact) < 4.5 * result.se


def test_the_default_temperature_is_n_over_ln_n_in_the_unit_of_the_loss():
    net, data = classifier()

    def thrice(model, batch):
        nats, count = degrade.label_loss(model, batch)
        return 3 * nats, 3 * count

    for loss, n in ((degrade.label_loss, 512), (thrice, 1536)):
        result = degrade.llc(net, data, loss=loss, width=0.5, **SHORT)
        assert result.nbeta == pytest.approx(n / math.log(n))
        assert result.table.n[0] == n
    assert degrade.llc(net, data, n=1000.0, loss=degrade.label_loss, width=0.5, **SHORT).nbeta == 1000 / math.log(1000)


def test_burn_in_is_never_averaged():
    """λ̂ is the mean over the kept steps alone; all steps together give another number."""
    net, result = small(step_size=0.1)
    kept = result.traces[result.traces.kept]
    assert len(kept) == 2 * 40
    assert result.llc == pytest.approx(100.0 * kept.rise.mean(), rel=1e-6)
    assert result.llc != pytest.approx(100.0 * result.traces.rise.mean(), rel=1e-4)
    assert result.per_chain.llc.mean() == pytest.approx(result.llc, rel=1e-6)
    assert np.allclose(result.traces.llc, 100.0 * result.traces.rise)


def test_a_chain_that_has_not_moved_has_no_complexity_whatever_its_batches():
    """The baseline is paired: batches of noisy examples, each with its own loss at w*, leave nothing."""
    _, result = small(step_size=1e-12)
    assert abs(result.llc) < 1e-3
    assert result.se < 1e-3


@pytest.mark.slow
def test_the_error_is_what_runs_differ_by():
    """24 seeds of 4 chains: z = (λ̂ − λ)/se has mean square 3 at most for t with 3 degrees of freedom, 1 for many."""
    z = []
    for seed in range(24):
        net, result = small(seed=seed, chains=4, steps=250, burn_in=50, batch_size=512)
        z.append((result.llc - exact_llc(net.h, 100.0, 1.0)) / result.se)
    assert float(np.median(np.abs(z))) < 1.0
    assert float(np.mean(np.abs(z) < 3)) > 0.9
    assert abs(np.mean(z)) < 1.0


def test_the_error_holds_both_chains_and_traces():
    _, result = small(step_size=0.5)
    assert result.se == max(result.errors.values())
    traces = result.per_chain
    assert result.errors["within_chain"] == pytest.approx(math.sqrt((traces.se**2).sum()) / 2)
    assert result.errors["chain"] == pytest.approx(traces.llc.std(ddof=1) / math.sqrt(2))
    assert (traces.ess > 2).all()
    _, alone = small(chains=1, step_size=0.5)
    assert alone.se == alone.errors["within_chain"] > 0


@pytest.mark.parametrize("bound", ["heating", "stability"])
def test_the_error_holds_what_the_step_adds_as_the_ladder_has_it(bound):
    """A rung of 8 ± 3 % added: taken out with its error, or left in as an error of its own."""
    _, result = small(step_size=0.5)
    table = result.ladder.table.copy()
    rise, error = table.rise[1], table.rise_se[1]
    found = coefficient(100.0, Estimate(rise, error), Estimate(0.08, 0.03), bound, 0.2)
    table.loc[1, ["bound", "llc", "llc_se", "heating_se"]] = [bound, found.mean, found.se, 0.03]
    again = degrade.LLC(replace(result.ladder, table=table))
    assert again.se == pytest.approx(found.se)
    assert again.errors["heating"] == pytest.approx(100.0 * rise * (0.03 if bound == "heating" else 0.08))


def test_examples_and_groups_of_them_add_up():
    _, result = small(evaluation=100)
    each = result.per_example
    assert len(each) == 100
    assert each.llc.mean() == pytest.approx(100.0 * result.table.evaluation_rise[0], rel=1e-4)
    labels = np.arange(2000) % 3
    groups = result.on(labels)
    assert groups.examples.tolist() == [int((each.example % 3 == g).sum()) for g in range(3)]
    assert np.average(groups.llc, weights=groups.examples) == pytest.approx(each.llc.mean(), rel=1e-4)
    assert groups.llc[0] == pytest.approx(each.llc[each.example % 3 == 0].mean(), rel=1e-4)


def test_a_subset_is_the_potential_of_those_examples_alone():
    net, data = classifier()
    settings = {"nbeta": 50.0, "loss": degrade.label_loss, "width": 0.5} | SHORT
    chosen = np.flatnonzero(data[1].numpy() == 1)
    mask = torch.as_tensor(data[1] == 1)
    one = degrade.llc(net, data, subset=chosen, **settings)
    for other in (
        degrade.llc(net, data, subset=mask, **settings),
        degrade.llc(net, tuple(part[mask] for part in data), **settings),
        degrade.llc(net, torch.utils.data.TensorDataset(*data), subset=chosen, **settings),
    ):
        assert other.llc == one.llc
    assert one.table.n[0] == len(chosen)
    with pytest.raises(ValueError, match="expected numbers from 0 to 511"):
        degrade.llc(net, data, subset=[512], **settings)


def test_restricted_weights_have_the_coefficient_of_their_directions():
    net, x = quadratic(cond=1, d=20, examples=1000)
    mask = torch.arange(20) < 5
    result = degrade.llc(
        net, x, nbeta=100.0, loss=quadratic_loss, gamma=10.0, only={"w": mask}, steps=500, burn_in=100, chains=8,
        progress=False,
    )  # fmt: skip
    assert result.table.sampled[0] == 5
    assert abs(result.llc - exact_llc(net.h[:5], 100.0, 10.0)) < 4.5 * result.se


def test_checkpoints_may_be_models_or_state_dicts_at_one_setting():
    net, data = classifier()
    start = {name: value.clone() for name, value in net.state_dict().items()}
    flat = {name: 0.1 * value for name, value in start.items()}
    settings = {"loss": degrade.label_loss, "gamma": 10.0} | SHORT
    table = degrade.llcs({"trained": start, "flat": flat}, data, model=net, **settings)
    assert table.checkpoint.tolist() == ["trained", "flat"]
    assert table.nbeta[0] == table.nbeta[1]
    assert table.llc[0] != table.llc[1]
    assert all(torch.equal(start[name], value) for name, value in net.state_dict().items())
    alone = degrade.llc(net, data, **settings)
    assert table.llc[0] == alone.llc
    assert degrade.llcs([net], data, **settings).llc[0] == alone.llc
    assert list(table.columns[1:]) == list(alone.table.columns)


def test_a_checkpoint_that_cannot_be_sampled_is_a_failed_row():
    stiff, x = quadratic(cond=1, d=4, examples=64)
    table = degrade.llcs([stiff, stiff], x, nbeta=100.0, loss=quadratic_loss, gamma=1.0, step_size=1e4, **SHORT)
    assert table.verdict.tolist() == ["failed", "failed"]
    assert "every step size" in table.reason[0]
    with pytest.raises(ValueError, match="is a state dict; expected model="):
        degrade.llcs([stiff.state_dict()], x, nbeta=1.0, loss=quadratic_loss, gamma=1.0)
    with pytest.raises(ValueError, match="a single state dict"):
        degrade.llcs(stiff.state_dict(), x, model=stiff)
    with pytest.raises(ValueError, match="no checkpoint"):
        degrade.llcs([], x, model=stiff)


@pytest.mark.parametrize("preconditioner", ["identity", "rmsprop"])
def test_published_settings_go_in_as_they_stand(preconditioner):
    if preconditioner not in PRECONDITIONERS:
        pytest.skip(f"{preconditioner} is not among the preconditioners")
    net, data = classifier()
    result = degrade.llc(
        net, data, gamma=300, nbeta=30, preconditioner=preconditioner, sampler="ula", step_size=1e-3, batch_size=32,
        chains=4, steps=200, burn_in=100, loss=degrade.label_loss, progress=False,
    )  # fmt: skip
    row = result.table.iloc[0]
    assert (row.gamma, row.nbeta, row.bound, row.steps, row.burn_in) == (300, 30, "given", 200, 100)
    assert np.allclose(result.traces.step_size, 1e-3)
    assert len(result.traces) == 4 * 200
    assert np.isfinite(result.llc)


def test_settings_that_do_not_fit_are_refused():
    net, data = classifier()
    with pytest.raises(ValueError, match="n only serves for the default"):
        degrade.llc(net, data, nbeta=10.0, n=100, loss=degrade.label_loss, gamma=1.0)
    with pytest.raises(ValueError, match="needs a finite n of at least 3"):
        degrade.llc(net, data, n=1, loss=degrade.label_loss, gamma=1.0)
    with pytest.raises(ValueError, match="expected exactly one of them: width"):
        degrade.llc(net, data, loss=degrade.label_loss)


def test_the_function_stays_a_function_once_it_was_used():
    import degrade.learning_coefficient

    assert callable(degrade.llc)
    assert degrade.llc is degrade.learning_coefficient.llc
    assert degrade.influence.__name__ == "degrade.influence"


def test_everything_can_be_shown_and_handed_on():
    _, result = small(evaluation=30)
    assert repr(result).startswith("LLC(")
    assert "n=2000 examples" in repr(result)
    assert isinstance(result.table, pd.DataFrame)
    lines = result.plot_traces().axes[0].get_lines()
    assert len(lines) >= 2


def test_xarray_holds_traces_and_losses_of_every_chain():
    pytest.importorskip("xarray")
    _, result = small(evaluation=30, step_size=0.5)
    data = result.to_xarray()
    assert dict(data.sizes) == {"chain": 2, "step": 60, "look": data.sizes["look"], "example": 30}
    assert float(data.rise[:, data.kept].mean()) * result.nbeta == pytest.approx(result.llc, rel=1e-6)
    assert data.attrs["llc"] == result.llc
    assert (data.example == result.per_example.example.to_numpy()).all()
    per_example = (data.nats.mean(("chain", "look")) - data.baseline) * result.nbeta
    assert np.allclose(per_example, result.per_example.llc, rtol=1e-3)


def test_cooled_chains_are_compared_and_not_averaged():
    net, result = small(cool=True, steps=400, burn_in=100, chains=4, batch_size=2000)
    assert result.ladder.table.rung.tolist() == [0, 1, 2]
    assert result.nbeta == 100.0
    assert np.isfinite(result.ladder.table.pooled_rhat[1])
    assert len(result.per_chain) == 4
    assert result.llc == pytest.approx(100.0 * result.traces[result.traces.kept].rise.mean(), rel=1e-6)
    assert abs(result.llc - exact_llc(net.h, 100.0, 1.0)) < 4.5 * result.se


def test_a_start_on_a_slope_is_negative_and_explained():
    net, x = quadratic(cond=1, d=20, examples=500)
    away = Quadratic(net.h, net.w.detach() + 0.3)
    result = degrade.llc(away, x, nbeta=100.0, loss=quadratic_loss, gamma=1.0, progress=False)
    assert result.llc < 0
    assert "no minimum" in result.reason
    assert not result.verdict.startswith("ok")
