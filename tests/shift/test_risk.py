"""The forecast and its calibration."""

import dataclasses
import itertools
import json
import math

import numpy as np
import pytest
from sklearn.linear_model import Ridge
from sklearn.metrics import roc_auc_score

from nlp_transfer.errors import DataError
from nlp_transfer.shift import calibrate, regression, risk, studied
from nlp_transfer.shift.calibrate import Outcome, Table, auroc, fit_calibration
from nlp_transfer.shift.probe import run_probe
from nlp_transfer.shift.risk import assess, features, flatten, load_calibration

WIDTH = 40


def reviews(rows, seed, *, flip=0.0, noise=1.1, shift=0.0):
    """Two classes along three of the coordinates, much noise, and a shift across."""
    rng = np.random.default_rng(seed)
    labels = rng.permutation(np.arange(rows) % 2)
    x = rng.normal(size=(rows, WIDTH)) * noise
    x[:, :3] += np.where(labels == 1, 0.9, -0.9)[:, None]
    x[:, 5:10] += shift
    return x, np.where(rng.random(rows) < flip, 1 - labels, labels)


def probed(count, *, flip=0.0, seed=0, **other):
    sx, sy = reviews(800, seed + 1, flip=flip)
    tx, ty = reviews(count, seed + 2, **other)
    ux, _ = reviews(300, seed + 3, **other)
    return run_probe(sx, sy, labelled=tx if count else None, labels=ty if count else None, unlabelled=ux)


@pytest.mark.parametrize("count", [20, 50, 100, 300])
def test_more_flipped_source_labels_never_lower_the_probability(count):
    flips = (0.0, 0.3, 0.5, 1.0)
    found = [
        np.mean([assess(probed(count, flip=by, seed=10 * s)).probability for s in range(4)]) for by in flips
    ]
    assert all(later >= earlier - 0.02 for earlier, later in itertools.pairwise(found))
    assert found[-1] > 0.8


@pytest.mark.parametrize("count", [20, 100, 300])
def test_flipped_labels_are_high_risk(count):
    found = assess(probed(count, flip=1.0))
    assert found.level == "high"
    assert found.predicted_gain.estimate < -0.01
    assert "contradicts" in " ".join(found.reasons)
    assert "another source" in found.advice


@pytest.mark.parametrize("count", [0, 20, 100, 300])
def test_a_source_with_noisy_labels_is_not_low_risk(count):
    found = assess(probed(count, flip=0.45))
    assert found.level != "low"
    assert "hardly teaches itself" in " ".join(found.reasons)


def test_a_worse_measured_gain_raises_the_probability():
    probe = probed(100, flip=0.2)
    worse = dataclasses.replace(
        probe,
        labelled=dataclasses.replace(
            probe.labelled,
            gain=dataclasses.replace(probe.labelled.gain, estimate=probe.labelled.gain.estimate - 0.1),
            smooth_combined=probe.labelled.smooth_combined - 0.1,
            combined_half=probe.labelled.combined_half - 0.1,
        ),
    )
    assert assess(worse).probability > assess(probe).probability


def test_same_domain_with_few_labels_is_low_risk():
    found = assess(probed(20))
    assert found.level == "low"
    assert found.predicted_gain.estimate > 0


@pytest.mark.parametrize("count", [0, 1, 2, 20, 35, 100, 180, 300, 1000])
def test_intervals_hold_their_estimate_at_every_amount(count):
    found = assess(probed(count))
    for figure in (found.predicted_gain, found.predicted_target_accuracy):
        assert figure.low <= figure.estimate <= figure.high
    assert found.predicted_target_accuracy.low >= 0
    assert found.predicted_target_accuracy.high <= 1
    assert 0 < found.probability < 1
    assert found.reasons
    assert found.advice
    assert json.loads(json.dumps(found.to_dict()))["level"] == found.level


def test_levels_follow_the_stated_thresholds():
    for flip in (0.0, 0.4, 0.5, 0.6, 1.0):
        found = assess(probed(100, flip=flip))
        expected = (
            "low"
            if found.probability < risk.MODERATE
            else "moderate"
            if found.probability < risk.HIGH
            else "high"
        )
        assert found.level == expected


def test_without_labels_it_does_not_know_what_labels_mean():
    """A source with flipped labels looks the same, and the caveats say so."""
    plain, flipped = assess(probed(0)), assess(probed(0, flip=1.0))
    assert flipped.probability == pytest.approx(plain.probability, abs=0.02)
    assert "label-function shift" in " ".join(plain.caveats)
    assert plain.probability == np.clip(plain.probability, risk.DOUBT / 2, 1 - risk.DOUBT / 2)
    assert "collect" in plain.advice


def test_outside_of_what_was_studied_is_flagged_and_widened():
    sx, sy = reviews(400, 1)
    tx, ty = reviews(5, 2)
    few = assess(run_probe(sx, sy, labelled=tx, labels=ty, unlabelled=sx[:100]))
    assert any("5 target labels" in text for text in few.evidence.outside)
    far = assess(probed(100, shift=30.0))
    assert any("studied" in text for text in far.evidence.outside)
    assert "Outside" in " ".join(far.caveats)


def test_every_figure_with_a_studied_range_has_words():
    table = load_calibration()["strategies"]
    ranges = [level["range"] for level in table["frozen"]["levels"]]
    ranges += [table[name]["range"] for name in ("full", "lora")]
    assert {name for part in ranges for name in part} <= set(studied.FIGURES)


def test_two_figures_farthest_outside_are_named_and_the_others_counted():
    ranges = {
        "doc_estimate": [0.7, 0.9],
        "log_n_source": [math.log(1000), math.log(1500)],
        "gain_smooth": [-0.02, 0.02],
        "mean_distance": [0.0, 0.5],
    }
    values = {
        "doc_estimate": 0.6,  # half a width below
        "log_n_source": math.log(500),  # log(2) / log(1.5) = 1.7 widths below
        "gain_smooth": -0.1,  # 2 widths below
        "mean_distance": 0.2,
    }
    known = {"classes": [2], "levels": [{"labels": 100}]}
    found = studied.beyond(
        known, None, [({"range": ranges}, 1.0)], probed(100), values, count=100, strategy="frozen"
    )
    assert found == (
        "gain from the source, read from margins \u221210.0 points "
        "(studied: \u22122.0 points to +2.0 points)",
        "number of source texts 500 (studied: 1,000 to 1,500)",
        "and 1 more figure",
    )
    for count, inside in ((1800, True), (1900, False), (820, True), (780, False)):  # up to a quarter more
        ranges = {"log_n_source": [math.log(1000), math.log(1500)]}
        near = {"log_n_source": math.log(count)}
        found = studied.beyond(
            known, None, [({"range": ranges}, 1.0)], probed(100), near, count=100, strategy="frozen"
        )
        assert (not found) == inside


def test_few_labels_say_that_the_level_is_the_same_for_all():
    """In the study next to nothing hurt beside 20 labels; beside 100 one source in nine did."""
    few, many = ("\n".join(assess(probed(count)).caveats) for count in (20, 100))
    assert "a source hardly ever hurt (0.5 % of the studied pairs)" in few
    assert "hardly ever hurt" not in many


def test_more_classes_than_studied_rest_on_the_probe():
    rng = np.random.default_rng(0)
    labels = np.arange(900) % 3
    x = rng.normal(size=(900, 10))
    x[np.arange(900), labels] += 2
    probe = run_probe(x[:500], labels[:500], labelled=x[500:700], labels=labels[500:700], unlabelled=x[700:])
    found = assess(probe)
    assert any("3 classes" in text for text in found.evidence.outside)
    assert found.predicted_gain.estimate == probe.labelled.gain.estimate
    assert assess(run_probe(x[:500], labels[:500], unlabelled=x[700:])).evidence.outside


def test_a_strategy_that_was_not_studied_is_flagged():
    table = {"strategies": {"frozen": load_calibration()["strategies"]["frozen"]}}
    found = assess(probed(100), strategy="lora", calibration=table)
    assert any("lora" in text for text in found.evidence.outside)
    with pytest.raises(DataError, match="unknown strategy"):
        assess(probed(20), strategy="adapter")
    with pytest.raises(DataError, match="no strategies"):
        assess(probed(20), calibration={"strategies": {}})


def test_amounts_between_two_studied_ones_are_mixed():
    probe = probed(100)
    at = {count: assess(probe, n_target_labels=count).predicted_gain.estimate for count in (100, 170, 300)}
    assert min(at[100], at[300]) - 1e-9 <= at[170] <= max(at[100], at[300]) + 1e-9
    share = math.log(1.7) / math.log(3)
    assert at[170] == pytest.approx((1 - share) * at[100] + share * at[300])


def test_calibration_documents_its_study():
    table = load_calibration()
    assert table["schema_version"] == 1
    for entry in [table["strategies"]["frozen"]]:
        assert entry["study"]["pairs"] >= 100
        assert entry["study"]["encoder"]
        assert entry["study"]["outcome"]
        assert 0 in [level["labels"] for level in entry["levels"]]
        for level in entry["levels"]:
            assert set(level["figures"]) >= {
                "auroc",
                "brier",
                "brier_skill",
                "accuracy_mae",
                "gain_mae",
                "coverage",
            }
            for name in ("gain", "accuracy"):
                assert level[name]["low"] <= 0 <= level[name]["high"]
                assert set(level[name]["terms"]) <= set(level["range"])


def test_every_calibrated_figure_is_one_that_features_gives():
    known = set(features(probed(100)))
    for level in load_calibration()["strategies"]["frozen"]["levels"]:
        for name in ("gain", "accuracy"):
            assert set(level[name]["terms"]) <= known


def test_flatten_leaves_out_what_is_unknown():
    flat = flatten(probed(1))
    assert "labelled.gain.estimate" not in flat
    assert all(math.isfinite(value) for value in flat.values())
    assert features(flat) == features(probed(1))


def study(seed=0, groups=8, pairs=25):
    """Made-up pairs: the gain is a known function of two figures, with noise."""
    rng = np.random.default_rng(seed)
    rows, outcomes = [], []
    for labels in (0, 100):
        for group in range(groups):
            for _ in range(pairs):
                row = {
                    name: float(rng.normal())
                    for name in (*calibrate.GAIN_FEATURES, *calibrate.ACCURACY_FEATURES)
                }
                gain = 0.02 * row["domain_accuracy"] - 0.01 * row["mean_distance"] + 0.005 * rng.normal()
                rows.append(row)
                outcomes.append(Outcome(labels, gain, 0.8 + gain, str(group), str((group + 1) % groups)))
    return rows, outcomes


def test_fit_calibration_finds_a_planted_rule():
    rows, outcomes = study()
    entry = fit_calibration(rows, outcomes, study={"name": "made up", "pairs": 80})
    assert [level["labels"] for level in entry["levels"]] == [0, 100]
    for level in entry["levels"]:
        for name, slope in (("domain_accuracy", 0.02), ("mean_distance", -0.01)):
            high, low = (risk.linear(level["gain"], {name: at}) for at in (1.0, -1.0))
            assert (high - low) / 2 == pytest.approx(slope, abs=0.002)
        assert level["figures"]["auroc"] > 0.9
        assert level["figures"]["brier_skill"] > 0.4
        assert 0.7 < level["figures"]["coverage"] < 0.9
        assert level["gain"]["error"] == pytest.approx(0.0055, abs=0.0015)


def test_fit_is_the_ridge_regression_of_scikit_learn():
    rows, outcomes = study()
    table = Table.of(
        [r for r, o in zip(rows, outcomes, strict=True) if o.labels], [o for o in outcomes if o.labels]
    )
    [entry] = table.fit(np.ones(len(table.gain), dtype=bool))
    known = ~np.isnan(table.x[0]).all(0)
    x = table.x[0][:, known]
    z = np.clip((x - x.mean(0)) / x.std(0), -4, 4)
    knees = (z.min(0) + z.max(0)) / 2
    columns = np.hstack([z, np.maximum(z - knees, 0)])
    reference = Ridge(alpha=regression.PENALTY).fit(columns, table.gain)
    terms = np.array(list(entry["gain"]["terms"].values()))
    np.testing.assert_allclose(terms[:, 2:].T, [reference.coef_[:8], knees, reference.coef_[8:]], atol=1e-6)
    predicted = [risk.linear(entry["gain"], row) for row in table.rows[:5]]
    np.testing.assert_allclose(predicted, reference.predict(columns[:5]), atol=1e-6)


def test_a_planted_bend_is_found():
    """What counts is how far a figure is above the middle of its range; below, it says nothing."""
    rng = np.random.default_rng(0)
    x = rng.uniform(-1, 1, size=(400, 2))
    y = 0.03 * np.maximum(x[:, 0], 0) + 0.002 * rng.normal(size=400)
    part = regression.Part(np.arange(400) % 8, np.ones(400), np.ones(400, dtype=bool))
    bent, left_out = regression.regress(x, y, part, ("a", "b"))
    straight, _ = regression.regress(x, y, part, ("a", "b"), bends=False)
    for at in (-0.8, -0.4, 0.4, 0.8):
        assert risk.linear(bent, {"a": at, "b": 0.0}) == pytest.approx(0.03 * max(at, 0), abs=0.0015)
    assert bent["error"] < 0.6 * straight["error"]
    assert np.abs(left_out - y).mean() < 0.003


def test_assess_and_the_fit_predict_alike():
    """The dictionary arithmetic of assess = the array arithmetic that the study's figures come from."""
    probe = probed(100)
    row = features(probe)
    level = next(
        item for item in load_calibration()["strategies"]["frozen"]["levels"] if item["labels"] == 100
    )
    table = Table.of([row], [Outcome(100, 0.0, 0.8, "a")])
    gain, low, high, accuracy, probability = table.predict([level], np.arange(1))[0]
    found = assess(probe)
    assert dataclasses.astuple(found.predicted_gain) == pytest.approx((gain, low, high))
    assert found.predicted_target_accuracy.estimate == pytest.approx(min(accuracy, 1.0))
    assert found.probability == pytest.approx(float(np.clip(probability, 0.01, 0.99)))


def test_held_out_predictions_do_not_see_their_own_outcomes():
    rows, outcomes = study()
    keep = [i for i, item in enumerate(outcomes) if item.labels]
    rows, outcomes = [rows[i] for i in keep], [outcomes[i] for i in keep]
    table = Table.of(rows, outcomes)
    spoiled = [dataclasses.replace(o, gain=o.gain + 1.0) if o.group == "3" else o for o in outcomes]
    theirs = table.groups == "3"
    again = Table.of(rows, spoiled).held_out()
    np.testing.assert_allclose(table.held_out()[theirs], again[theirs])
    assert not np.allclose(table.held_out()[~theirs, 0], again[~theirs, 0])


def test_strict_hold_out_drops_the_source_as_well():
    rows, outcomes = study()
    keep = [i for i, item in enumerate(outcomes) if item.labels]
    rows, outcomes = [rows[i] for i in keep], [outcomes[i] for i in keep]
    table = Table.of(rows, outcomes)
    theirs = table.groups == "3"  # its pairs come from source group 4
    spoiled = [
        dataclasses.replace(o, gain=o.gain + 1.0) if "4" in (o.group, o.source_group) else o for o in outcomes
    ]
    again = Table.of(rows, spoiled).held_out(sources_too=True)
    np.testing.assert_allclose(table.held_out(sources_too=True)[theirs], again[theirs])


def test_auroc_is_that_of_scikit_learn():
    rng = np.random.default_rng(0)
    truth, score = rng.random(200) < 0.3, rng.normal(size=200).round(1)
    assert auroc(truth, score) == pytest.approx(roc_auc_score(truth, score))
    assert auroc(np.ones(5), np.arange(5)) is None


def test_too_little_to_calibrate_on():
    rows, outcomes = study(groups=2)
    with pytest.raises(DataError, match="too little"):
        fit_calibration(rows, outcomes, study={"name": "x", "pairs": 1})


@pytest.mark.parametrize(
    ("right", "labels", "expected", "classes"), [(0.2, 20, 0.8, 2), (0.6, 50, 0.7, 2), (0.1, 40, 0.5, 5)]
)
def test_contradiction_is_a_beta_posterior(right, labels, expected, classes):
    from scipy.stats import beta

    posterior = beta(right * labels + 4 * expected, (1 - right) * labels + 4 * (1 - expected))
    found = risk.contradiction(right, labels, expected, classes)
    assert found == pytest.approx(posterior.cdf(0.8 / classes), abs=0.01)
