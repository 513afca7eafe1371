"""The calibration of each strategy: which is chosen, how it is fitted, what the report says of it."""

import copy
import dataclasses
import io

import numpy as np
import pytest
from rich.console import Console
from sklearn.linear_model import LinearRegression

from nlp_transfer.errors import DataError
from nlp_transfer.reporting import summary
from nlp_transfer.reporting.html import shift_page
from nlp_transfer.shift import correction, regression
from nlp_transfer.shift.calibrate import Outcome
from nlp_transfer.shift.correction import fit_correction, held_out
from nlp_transfer.shift.report import shift_report
from nlp_transfer.shift.risk import assess, linear, load_calibration
from nlp_transfer.shift.rows import load_side
from tests.shift.domains import WordEncoder, rows, write
from tests.shift.test_risk import probed

STRATEGIES = ("full", "lora")
NAMES = tuple(
    dict.fromkeys((*correction.GAIN_FEATURES, *correction.ACCURACY_FEATURES, *correction.HURT_FEATURES))
)


def study(seed=0, targets=6, each=10):
    """Made-up cases: fine-tuning gains half of the frozen gain, less four points."""
    rng = np.random.default_rng(seed)
    values, outcomes = [], []
    for number in range(targets * each):
        row = {name: float(rng.normal()) for name in NAMES} | {"frozen_gain": 0.1 * rng.normal()}
        row["frozen_accuracy"] = 0.8 + 0.05 * rng.normal()
        gain = 0.5 * row["frozen_gain"] - 0.04 + 0.003 * rng.normal()
        values.append(row)
        group = number % targets
        outcomes.append(
            Outcome((50, 100)[number % 2], gain, row["frozen_accuracy"], str(group), str(group // 2 + 10))
        )
    return values, outcomes


@pytest.fixture(scope="module")
def table():
    """The package's frozen calibration with two made-up corrections: five points up and five points down."""
    values, outcomes = study()
    known = load_calibration()["strategies"]["frozen"]
    own = fit_correction(values, outcomes, study={"name": "made up", "pairs": 60, "cases": 60})
    moved = {}
    for name, by in (("full", 0.05), ("lora", -0.05)):
        entry = copy.deepcopy(own) | {"range": {}}
        for part in ("gain", "accuracy"):
            entry[part]["terms"] = {f"frozen_{part}": [0.0, 1.0, 1.0]}
            entry[part]["intercept"] = by
        moved[name] = entry
    return {"strategies": {"frozen": known, **moved}}


def test_each_strategy_has_its_own_calibration(table):
    probe = probed(100)
    found = {name: assess(probe, strategy=name, calibration=table) for name in ("frozen", *STRATEGIES)}
    frozen = found["frozen"].predicted_gain.estimate
    assert found["full"].predicted_gain.estimate == pytest.approx(frozen + 0.05)
    assert found["lora"].predicted_gain.estimate == pytest.approx(frozen - 0.05)
    assert found["full"].probability < found["lora"].probability
    assert [item.evidence.strategy for item in found.values()] == list(found)
    assert found["full"].evidence.study == "made up"
    assert (found["full"].evidence.pairs, found["full"].evidence.labels) == (60, (50, 100))
    assert found["frozen"].evidence.cases > 1000


def test_what_no_training_was_measured_for_is_borrowed_and_said(table):
    without = assess(probed(0), strategy="full", calibration=table)
    assert without.evidence.strategy == "frozen"
    assert without.predicted_gain == assess(probed(0), calibration=table).predicted_gain
    assert any("without target labels was not studied" in text for text in without.evidence.outside)
    few = assess(probed(20), strategy="full", calibration=table)
    assert any("20 target labels (studied: 50 to 100)" in text for text in few.evidence.outside)


def test_the_shipped_studies_state_their_size_and_their_figures():
    strategies = load_calibration()["strategies"]
    for name in STRATEGIES:
        entry = strategies[name]
        assert entry["study"]["cases"] >= 40
        assert "finetune_study" in entry["study"]["name"]
        assert entry["study"]["outcome"]
        assert entry["figures"]["rows"] == entry["study"]["cases"]
        assert {"auroc", "brier_skill", "gain_mae", "accuracy_mae", "coverage"} <= set(entry["figures"])
        for part in ("gain", "accuracy"):
            assert entry[part]["low"] <= 0 <= entry[part]["high"]


@pytest.mark.parametrize("strategy", ["frozen", *STRATEGIES])
def test_a_flipped_source_is_riskier_than_an_honest_one(strategy):
    honest, flipped = (assess(probed(100, flip=by), strategy=strategy) for by in (0.0, 1.0))
    assert flipped.probability > honest.probability + 0.3
    assert flipped.level == "high"
    assert honest.level == "low"
    assert flipped.predicted_gain.estimate < min(honest.predicted_gain.estimate, -0.01)


def test_a_planted_rule_is_found_and_held_out_figures_show_it():
    values, outcomes = study()
    entry = fit_correction(values, outcomes, study={"name": "made up", "pairs": 60, "cases": 60})
    assert entry["labels"] == [50, 100]
    _, scale, weight = entry["gain"]["terms"]["frozen_gain"]
    assert weight / scale == pytest.approx(0.5, abs=0.05)
    assert entry["figures"]["auroc"] > 0.95
    assert entry["figures"]["brier_skill"] > 0.5
    assert 0.6 < entry["figures"]["coverage"] < 0.95
    assert entry["figures"]["gain_mae"] < 1.0


def test_the_fit_without_a_penalty_is_least_squares(monkeypatch):
    """Independent reference: scikit-learn's plain regression on the figures as they are."""
    monkeypatch.setattr(regression, "PENALTY", 1e-9)
    values, outcomes = study()
    entry = correction.fit(values, outcomes)
    x = np.array([[row[name] for name in correction.GAIN_FEATURES] for row in values])
    reference = LinearRegression().fit(x, [item.gain for item in outcomes])
    inside = np.flatnonzero((np.abs(x - x.mean(0)) < 3.9 * x.std(0)).all(1))[:10]
    found = [linear(entry["gain"], values[i]) for i in inside]
    np.testing.assert_allclose(found, reference.predict(x[inside]), atol=2e-4)


@pytest.mark.parametrize("sources_too", [False, True])
def test_held_out_cases_do_not_see_their_own_outcomes(sources_too):
    values, outcomes = study()
    spoiled = [
        dataclasses.replace(item, gain=item.gain + 1.0)
        if item.group == "3" or (sources_too and "11" in (item.group, item.source_group))
        else item
        for item in outcomes
    ]
    theirs = np.array([item.group == "3" for item in outcomes])  # from source group 11
    before, after = (held_out(values, items, sources_too=sources_too) for items in (outcomes, spoiled))
    np.testing.assert_allclose(before[theirs], after[theirs])
    assert not np.allclose(before[~theirs, 0], after[~theirs, 0])


def test_a_study_without_harm_keeps_a_small_probability():
    values, outcomes = study()
    good = [dataclasses.replace(item, gain=0.05) for item in outcomes]
    entry = fit_correction(values, good, study={"name": "made up", "pairs": 60, "cases": 60})
    assert entry["figures"]["auroc"] is None
    assert entry["hurt"]["terms"] == {}


def test_too_few_targets_are_refused():
    values, outcomes = study(targets=2)
    with pytest.raises(DataError, match="too little"):
        fit_correction(values, outcomes, study={"name": "made up", "pairs": 1, "cases": 1})


@pytest.mark.parametrize(("strategy", "named"), [(None, "full"), ("lora", "lora"), ("frozen", "frozen")])
def test_the_report_names_the_study_behind_its_number(tmp_path, monkeypatch, strategy, named):
    source = load_side(write(tmp_path / "books.jsonl", rows("books", 200)), "source", seed=1)
    target = load_side(write(tmp_path / "pans.jsonl", rows("pans", 120, seed=1)), "target", seed=1)
    given = {} if strategy is None else {"strategy": strategy}
    report = shift_report(source, target, embedder=WordEncoder(), permutations=20, seed=1, **given)
    study = load_calibration()["strategies"][named]["study"]
    evidence = report.to_dict()["risk"]["evidence"]
    assert report.strategy == named
    assert (evidence["study"], evidence["pairs"]) == (study["name"], study["pairs"])
    stream = io.StringIO()
    monkeypatch.setattr(summary, "stdout", lambda: Console(file=stream, width=400))
    report.print()
    for text in (stream.getvalue(), shift_page([report])):
        assert f"in {evidence['cases']:,} measured outcomes of {study['pairs']} pairs" in text
        assert study["name"].split(":")[0] in text
        assert ("left out of the fit, planted faults included" in text) == (named != "frozen")
