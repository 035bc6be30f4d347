"""What a larger model keeps at a smaller one's loss, on tables whose truth is planted."""

import numpy as np
import pytest

from studies.decoupling import LARGER, SMALLER, finding, kept
from studies.finetuning_ladders import BASE
from tests.studies.test_finetuning_penalty import HALF, planted


def table(gone=0.3, loss=1.7):
    """A larger model with a loss of 1.5, and a smaller one that lacks a share of every behaviour."""
    models = planted(0, {BASE: (1.0, 0.0, 1.5, 1.5), "tuned": (1.0, gone, loss, 1.5)}, noise=0.05)
    models["model"] = models["model"].map({BASE: LARGER, "tuned": SMALLER})
    return models[(models.model == LARGER) | (models.rung == 0)].assign(dial=models["model"])


def test_what_is_kept_is_read_at_equal_loss():
    found = kept(table()).set_index("label")
    for name, half in HALF.items():
        exact = 1 / (1 + (0.2 / half) ** 3) - 0.7
        assert found.value[name] == pytest.approx(exact, abs=4 * found.se[name] + 0.03)
    assert found.call["induction"] == "keeps more" and found.call["canary"] == "keeps less"
    assert found.smaller["fact"] == pytest.approx(0.1 + 0.9 * 0.7)
    assert "induction" in finding(table())[2] and "5 of 5 rungs can be used" in finding(table())[0]


def test_a_smaller_model_beyond_the_ladder_is_said_to_be():
    found = kept(table(loss=5.0))
    assert np.isnan(found.value).all()
    assert "cannot be compared" in finding(table(loss=5.0))[1]


def test_below_the_first_rung_what_is_kept_is_only_bounded():
    found = kept(table(gone=0.02, loss=1.55)).set_index("label")
    assert (found.low < found.high).all() and found.note.str.contains("between w").all()
    assert "within [" in finding(table(gone=0.02, loss=1.55))[1]


def test_without_a_usable_rung_the_figure_says_so():
    from studies.figures import kept as drawn
    from studies.figures import png

    rows = table()
    failed = rows.assign(verdict=rows["verdict"].where(rows["rung"] == 0, "failed"))
    figure = drawn(kept(failed))
    assert png(figure, dpi=50).startswith(b"\x89PNG")
    assert "no rung of the ladder can be used" in figure.axes[0].texts[0].get_text().replace("\n", " ")
