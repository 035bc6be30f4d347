"""The table that a run prints."""

import numpy as np
import pandas as pd

from degrade.rung_lines import lines

START = {"rung": 0, "target": 0.0, "rise": 0.0, "rise_se": np.nan, "nbeta": np.nan, "llc": np.nan,
         "verdict": "trained", "reason": ""}  # fmt: skip
RUNG = START | {"rung": 1, "target": 0.3, "rise": 0.312, "rise_se": 0.004, "nbeta": 5100.0, "llc": 1591.2,
                "verdict": "suspect", "reason": "R-hat 1.2 is above 1.05"}  # fmt: skip


def test_every_rung_but_the_trained_weights_has_a_line_with_its_verdict_and_reason(tmp_path):
    other = RUNG | {"rung": 2, "target": 0.7, "rise": 0.71, "rise_se": np.nan, "verdict": "ok", "reason": None}
    pd.DataFrame([START, RUNG, other]).to_parquet(tmp_path / "ladder.parquet")
    head, one, two = lines(tmp_path)
    assert head.split() == ["rung", "target", "rise", "nβ", "λ", "verdict", "reason"]
    assert "0.312 ± 0.004" in one and "5,100" in one and one.endswith("suspect  R-hat 1.2 is above 1.05")
    assert two.split() == ["2", "0.7", "0.71", "5,100", "1,591", "ok"]
    assert one.index("suspect") == two.index("ok")


def test_several_ladders_are_named_and_no_ladder_says_nothing(tmp_path):
    assert lines(tmp_path) == []
    pd.DataFrame([RUNG]).assign(model="full 300", potential="mixture").to_parquet(tmp_path / "ladder.parquet")
    assert lines(tmp_path)[1].startswith("full 300  mixture    1 ")
