"""The sweep asks each probe on the right weights, as often as it should, and keeps the table tidy."""

import pandas as pd
import pytest

from probes import Claim, Induction, Measure, Recall, sweep
from tests.probes import toys

COLUMNS = ["rung", "target", "rise", "heldout_rise", "verdict", "chain", "draw"]
COLUMNS += ["probe", "measure", "value", "chance", "higher", "binary"]


@pytest.fixture
def ladder():
    return toys.Ladder(toys.bridge())


def norm(model):
    """The norm of the weights that the toy ladder scales."""
    return pd.DataFrame({"measure": ["norm"], "value": [float(list(model.parameters())[-1].detach().norm())]})


def test_each_draw_is_asked_under_its_own_weights(ladder):
    trained = norm(ladder.model)["value"].item()
    table = sweep(ladder, [norm], progress=False)
    scale = (1 + table["rung"] + 0.1 * table["chain"] + 0.01 * table["draw"]).mask(table["rung"] == 0, 1)
    assert table["value"].tolist() == pytest.approx((trained * scale).tolist(), rel=1e-6)
    assert norm(ladder.model)["value"].item() == trained


def test_rung_zero_is_the_trained_model_asked_once(ladder):
    first = sweep(ladder, [norm], progress=False).iloc[0]
    assert first[COLUMNS[:7]].tolist() == [0, 0.0, 0.0, 0.0, "trained", -1, -1]
    assert len(ladder.applications) == 12


def test_columns_come_in_the_promised_order_and_undeclared_measures_stay_missing(ladder):
    table = sweep(ladder, [norm], progress=False)
    assert list(table.columns) == COLUMNS
    assert table[["chance", "higher", "binary"]].isna().all().all()


@pytest.mark.parametrize(("kept", "indices"), [(1, {2}), (2, {0, 2}), (3, {0, 1, 2}), (9, {0, 1, 2})])
def test_thinning_is_even_and_keeps_the_last(ladder, kept, indices):
    table = sweep(ladder, [norm], draws=kept, progress=False)
    drawn = table[table["rung"] > 0]
    assert set(drawn["draw"]) == indices
    assert (drawn.groupby(["rung", "chain"]).size() == len(indices)).all()
    assert set(ladder.applications) == set(drawn[["rung", "chain", "draw"]].itertuples(index=False, name=None))


def test_a_probe_with_its_own_draws_is_asked_less_often(ladder):
    def rare(model):
        return norm(model)

    rare.draws = 1
    table = sweep(ladder, [norm, rare], progress=False)
    counts = table[table["rung"] > 0].groupby("probe").size()
    assert counts.to_dict() == {"norm": 12, "rare": 4}


def test_a_swept_probe_serves_its_claims(ladder):
    calls = []

    def counted(model):
        calls.append(model)
        return norm(model)

    claims = [
        Claim(counted, f"above {bound}", lambda table, bound=bound: table["value"].item() > bound) for bound in (0, 1e9)
    ]
    table = sweep(ladder, [*claims, counted], progress=False)
    assert len(calls) == 13
    holds = table[table["measure"] == "holds"].groupby("probe")["value"].agg(["min", "max", "size"])
    assert holds.loc["claim: above 0"].tolist() == [1, 1, 13]
    assert holds.loc["claim: above 1000000000.0"].tolist() == [0, 0, 13]
    assert set(table.loc[table["measure"] == "holds", "binary"]) == {True}


def test_row_wise_chance_wins_over_the_declared_one(ladder):
    def probe(model):
        return pd.DataFrame({"measure": ["a", "a", "b"], "value": [1, 2, 3], "chance": [0.25, None, None]})

    probe.measures = {"a": Measure(chance=0.5, higher=False, binary=True, unit="share")}
    table = sweep(ladder, [probe], draws=1, progress=False).head(3)
    assert table["chance"].tolist()[:2] == [0.25, 0.5] and pd.isna(table["chance"].iloc[2])
    assert table["higher"].tolist()[:2] == [False, False] and pd.isna(table["higher"].iloc[2])
    assert table["value"].dtype == float


def test_keys_of_unlike_probes_share_a_table_and_whole_numbers_stay_whole(ladder):
    corpus = toys.Corpus()
    induction = Induction.build(toys.subject(ladder.model), n=2)
    table = sweep(ladder, [norm, induction, Recall(canaries=corpus.canaries())], draws=1, progress=False)
    assert str(table["head"].dtype) == "Int64" and table["head"].isna().any()
    assert set(table["behaviour"].dropna()) == {"induction", "canary x1", "canary x4", "canary x16"}


def test_the_table_survives_parquet(ladder, tmp_path):
    table = sweep(ladder, [norm, Induction.build(toys.subject(ladder.model), n=2)], draws=1, progress=False)
    table.to_parquet(tmp_path / "table.parquet")
    pd.testing.assert_frame_equal(pd.read_parquet(tmp_path / "table.parquet"), table)


def test_an_error_says_which_probe_and_draw_and_restores_the_weights(ladder):
    before = norm(ladder.model)["value"].item()

    def fragile(model):
        if norm(model)["value"].item() > 1.5 * before:
            raise RuntimeError("on purpose")
        return norm(model)

    with pytest.raises(RuntimeError, match="on purpose") as caught:
        sweep(ladder, [fragile], progress=False)
    assert caught.value.__notes__ == ["probe 'fragile' on rung 1, chain 0, draw 0"]
    assert norm(ladder.model)["value"].item() == before


@pytest.mark.parametrize(
    ("probes", "draws", "message"),
    [
        ([], None, "at least one probe"),
        (norm, None, "a list with at least one probe"),
        ([norm, norm], None, "two probes are called 'norm'"),
        ([norm], 0, "at least 1 per chain and rung"),
        ([len], None, "'measure' and 'value'"),
        ([lambda model: norm(model).assign(rung=1)], None, r"\['rung'\], they are the sweep's"),
    ],
)
def test_bad_input_is_refused_with_value_and_cure(probes, draws, message):
    ladder = toys.Ladder(model=torch_module())
    with pytest.raises(ValueError, match=message):
        sweep(ladder, probes, draws=draws, progress=False)


def torch_module():
    import torch

    class Two(torch.nn.Linear):
        def __len__(self):
            return 2

    return Two(2, 2)
