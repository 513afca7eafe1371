"""Warnings about a training that went wrong."""

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from nlp_transfer import train
from nlp_transfer.reporting import words
from nlp_transfer.tasks.reports import classification_report
from nlp_transfer.training.doubts import doubts
from tests.training.conftest import planted_rows, write_rows


def scores(predicted, truth):
    return {"target": {"test": classification_report(np.eye(2)[predicted], truth, ["bad", "good"])}}


def forecast(low, *, own=True):
    """A report with a forecast that was calibrated for its strategy, or borrowed from another."""
    accuracy = SimpleNamespace(estimate=low + 0.05, low=low, high=low + 0.1)
    risk = SimpleNamespace(predicted_target_accuracy=accuracy)
    return SimpleNamespace(own_forecast=risk if own else None)


def test_one_class_for_all_rows_is_said():
    truth = np.arange(40) % 2
    (text,) = doubts(scores(np.ones(40, int), truth), None, "full")
    assert "calls all 40 rows of target.test 'good'" in text
    predicted = np.ones(40, int)
    predicted[0] = 0
    assert not doubts(scores(predicted, truth), None, "full")
    assert not doubts(scores(np.ones(40, int), np.ones(40, int)), None, "full")  # there is one class only
    assert not doubts(scores(np.ones(12, int), np.arange(12) % 2), None, "full")  # too few to tell


@pytest.mark.parametrize(("low", "own", "said"), [(0.9, True, 1), (0.6, True, 0), (0.9, False, 0)])
def test_a_score_below_the_forecast_is_said(low, own, said):
    """One of 70 %, whose interval on 200 rows ends at 76 %; a forecast of another strategy does not count."""
    truth = np.arange(200) % 2
    predicted = np.where(np.arange(200) % 10 < 7, truth, 1 - truth)
    given, report = scores(predicted, truth), forecast(low, own=own)
    found = doubts(given, report, "full")
    assert len(found) == said
    assert all("70.0 %, below what was foretold" in text for text in found)
    assert all("learning rate" not in text for text in doubts(given, report, "frozen"))
    line = words.foretold(report, given["target"])
    assert (line is not None) == own
    assert not own or (f"{100 * low + 5:.1f} %" in line and line.endswith("test: 70.0 %"))


def test_a_run_keeps_what_it_warned_of(make_recipe, tmp_path, capsys):
    rows = write_rows(tmp_path / "test.jsonl", planted_rows(40, 5))
    recipe = make_recipe("training.learning_rate=1e-12", f"target.test={rows}", "model.max_length=6")
    result = train(recipe)
    said = capsys.readouterr().err
    folder = Path(result.output_dir)
    kept = json.loads((folder / "metrics.json").read_text("utf-8"))["warnings"]
    assert [text for text in kept if "rows of target.test" in text]
    assert [text for text in kept if "longer than 6 tokens" in text]
    card = (folder / "README.md").read_text("utf-8")
    assert "## Warnings" in card
    assert all(f"warning: {text}" in said for text in kept)
    assert said.count("warning: ") == len(kept)
