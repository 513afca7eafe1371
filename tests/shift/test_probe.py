"""The probes, against scikit-learn and against shifts that were put there."""

import dataclasses

import numpy as np
import pytest
from sklearn.linear_model import Ridge
from sklearn.model_selection import LeaveOneOut, cross_val_predict

from nlp_transfer.errors import DataError
from nlp_transfer.shift.linear import (
    Fitted,
    correct,
    encode,
    fit_ridge,
    margins,
    plain_prior,
    predictions,
    stratified_folds,
)
from nlp_transfer.shift.probe import PreparedPair, run_probe
from nlp_transfer.shift.risk import assess, flatten

WIDTH = 12


def domain(rows, seed, *, shift=0.0, flip=0.0, classes=2, noise=0.6):
    """Rows whose class moves one coordinate each; ``shift`` moves all rows along an unrelated coordinate."""
    rng = np.random.default_rng(seed)
    labels = np.arange(rows) % classes
    rng.shuffle(labels)
    x = rng.normal(size=(rows, WIDTH)) * noise
    if classes == 2:
        x[:, 0] += np.where(labels == 1, 1.0, -1.0)
    else:
        x[np.arange(rows), labels] += 2.0
    x[:, WIDTH - 1] += shift
    flipped = rng.random(rows) < flip
    return x, np.where(flipped, classes - 1 - labels, labels)


def sklearn_ridge(penalty):
    """Ridge regression without intercept: the rows carry a constant column."""
    return Ridge(alpha=penalty, fit_intercept=False, solver="cholesky")


def with_constant(x):
    return np.hstack([x, np.ones((len(x), 1))])


def test_ridge_leave_one_out_is_that_of_scikit_learn():
    x, labels = domain(60, 0)
    x, y = with_constant(x), encode(labels, 2)
    fit = fit_ridge(x, y, penalties=(2.0,))
    reference = cross_val_predict(sklearn_ridge(2.0), x, y[:, 0], cv=LeaveOneOut())
    np.testing.assert_allclose(fit.held_out[:, 0], reference, atol=1e-10)
    np.testing.assert_allclose(fit.weights[:, 0], sklearn_ridge(2.0).fit(x, y[:, 0]).coef_, atol=1e-10)


def test_ridge_picks_the_penalty_with_the_least_leave_one_out_error():
    x, labels = domain(60, 0, noise=2.0)
    x, y = with_constant(x), encode(labels, 2)
    grid = (0.1, 1.0, 10.0, 100.0)
    errors = [
        np.mean((cross_val_predict(sklearn_ridge(p), x, y[:, 0], cv=LeaveOneOut()) - y[:, 0]) ** 2)
        for p in grid
    ]
    assert fit_ridge(x, y, penalties=grid).penalty == grid[int(np.argmin(errors))]


def test_weighted_ridge_is_that_of_scikit_learn():
    x, labels = domain(50, 1)
    weights = np.random.default_rng(2).uniform(0.2, 3, 50)
    x, y = with_constant(x), encode(labels, 2)
    fit = fit_ridge(x, y, weights, penalties=(1.0,))
    np.testing.assert_allclose(
        fit.weights[:, 0], sklearn_ridge(1.0).fit(x, y[:, 0], sample_weight=weights).coef_, atol=1e-10
    )
    for row in (0, 17):
        rest = np.delete(np.arange(50), row)
        left = sklearn_ridge(1.0).fit(x[rest], y[rest, 0], sample_weight=weights[rest])
        assert fit.held_out[row, 0] == pytest.approx(left.predict(x[[row]])[0], abs=1e-10)


@pytest.mark.parametrize("classes", [2, 3])
def test_source_as_prior_is_a_fit_on_both(classes):
    """A fold left out = scikit-learn trained on the source and the other target rows."""
    sx, sy = domain(80, 3, classes=classes)
    tx, ty = domain(30, 4, classes=classes, shift=0.5)
    sx, tx = with_constant(sx), with_constant(tx)
    ys, yt = encode(sy, classes), encode(ty, classes)
    source = fit_ridge(sx, ys, penalties=(3.0,))
    fitted = Fitted.of(source.prior(tx, tx[:5]), yt)
    whole = sklearn_ridge(3.0).fit(np.vstack([sx, tx]), np.vstack([ys, yt]))
    np.testing.assert_allclose(fitted.further(), whole.predict(tx[:5]).reshape(5, -1), atol=1e-9)
    fold = np.array([2, 5, 11, 29])
    rest = np.setdiff1d(np.arange(30), fold)
    left = sklearn_ridge(3.0).fit(np.vstack([sx, tx[rest]]), np.vstack([ys, yt[rest]]))
    np.testing.assert_allclose(fitted.held_out(fold), left.predict(tx[fold]).reshape(4, -1), atol=1e-9)
    inside, outside = source.prior(tx, tx[:5]).predict(yt, rest, fold)
    np.testing.assert_allclose(inside, left.predict(tx[fold]).reshape(4, -1), atol=1e-9)
    np.testing.assert_allclose(outside, left.predict(tx[:5]).reshape(5, -1), atol=1e-9)


def test_target_only_leave_one_out_is_that_of_scikit_learn():
    x, labels = domain(40, 5)
    x, y = with_constant(x), encode(labels, 2)
    found = Fitted.of(plain_prior(x, x[:0], 3.0, 1), y).leave_one_out()
    np.testing.assert_allclose(
        found[:, 0], cross_val_predict(sklearn_ridge(3.0), x, y[:, 0], cv=LeaveOneOut()), atol=1e-9
    )


def test_evidence_is_the_log_density_of_a_gaussian():
    from scipy.stats import multivariate_normal

    x, labels = domain(25, 6)
    y = encode(labels, 2)
    found = Fitted.of(plain_prior(x, x[:0], 2.0, 1), y).evidence
    kernel = x @ x.T / 2.0 + np.eye(25)
    variance = float(y[:, 0] @ np.linalg.solve(kernel, y[:, 0])) / 25
    density = multivariate_normal(np.zeros(25), variance * kernel).logpdf(y[:, 0])
    assert found == pytest.approx(density / 25 + 0.5 * (1 + np.log(2 * np.pi)), abs=1e-8)


def test_folds_partition_and_spread_the_classes():
    labels = np.array([0] * 20 + [1] * 10)
    folds = list(stratified_folds(labels, 5, np.random.default_rng(0)))
    assert sorted(np.concatenate(folds)) == list(range(30))
    assert all((labels[fold] == 1).sum() == 2 for fold in folds)


def test_margins_are_positive_where_right():
    scores, labels = np.array([[0.2, 0.5, 0.1], [0.9, 0.1, 0.3]]), np.array([1, 2])
    np.testing.assert_allclose(margins(scores, labels), [0.3, -0.6])


def test_classes_that_tie_share_the_prediction():
    scores = np.array([[0.2, 0.5, 0.5], [0.0, 1e-16, 0.0], [0.9, 0.1, 0.3], [0.9, 0.1, 0.3]])
    np.testing.assert_allclose(correct(scores, np.array([1, 2, 0, 2])), [1 / 2, 1 / 3, 1, 0])
    np.testing.assert_array_equal(predictions(scores), [1, 0, 0, 0])
    np.testing.assert_allclose(
        correct(np.array([[0.0], [-1e-17], [0.3]]), np.array([0, 1, 1])), [0.5, 0.5, 1]
    )


def test_a_source_that_is_undecided_on_the_target_is_as_good_as_a_guess():
    """The class moves the first coordinate, in which all target rows lie half way; no shift of domains."""
    sx, y = np.tile([[1.0, 0.5], [1.0, -0.5], [-1.0, 0.5], [-1.0, -0.5]], (50, 1)), np.arange(40) % 2
    tx = np.stack([np.zeros(40), np.where(np.arange(40) % 4 < 2, 0.5, -0.5)], 1)
    found = run_probe(sx, (sx[:, 0] > 0).astype(int), labelled=tx, labels=y, unlabelled=tx)
    assert found.label_free.source_accuracy == 1
    assert found.labelled.zero_shot.estimate == pytest.approx(0.5)
    assert found.label_free.prior_shift == pytest.approx(0, abs=1e-9)
    assert assess(found).level != "high"


def test_no_shift_source_helps_little_data():
    sx, sy = domain(600, 10)
    tx, ty = domain(20, 11)
    ux, _ = domain(400, 12)
    found = run_probe(sx, sy, labelled=tx, labels=ty, unlabelled=ux)
    free = found.label_free
    assert free.proxy_a_distance < 0.35
    assert abs(free.doc_estimate - free.source_accuracy) < 0.05
    assert abs(free.atc_estimate - free.source_accuracy) < 0.05
    assert found.labelled.zero_shot.estimate > 0.85
    assert found.labelled.agreement.label_function > 0.7
    assert found.labelled.evidence > 0


def test_covariate_shift_is_seen_without_labels():
    sx, sy = domain(500, 13)
    near, far = (run_probe(sx, sy, unlabelled=domain(400, 14, shift=by)[0]).label_free for by in (0.0, 3.0))
    assert far.proxy_a_distance > 1.5 > near.proxy_a_distance
    assert far.mean_distance > near.mean_distance
    assert far.effective_share < near.effective_share


def test_noisier_target_lowers_the_label_free_estimates():
    sx, sy = domain(600, 15, noise=0.5)
    rng = np.random.default_rng(16)
    target, _ = domain(2000, 17, noise=0.5)
    target[:, 0] = target[:, 0] * 0.3 + rng.normal(size=2000) * 0.2
    free = run_probe(sx, sy, unlabelled=target).label_free
    assert free.doc_estimate < free.source_accuracy - 0.03
    assert free.atc_estimate < free.source_accuracy - 0.03


@pytest.mark.parametrize("count", [20, 100, 300])
def test_flipped_labels_show_with_labels_only(count):
    sx, sy = domain(600, 18, flip=1.0)
    tx, ty = domain(count, 19)
    ux, _ = domain(300, 20)
    found = run_probe(sx, sy, labelled=tx, labels=ty, unlabelled=ux)
    assert found.labelled.zero_shot.high < 0.3
    assert found.labelled.agreement.label_function < -0.5
    assert found.labelled.evidence < 0
    assert found.labelled.gain.estimate < 0
    blind = run_probe(sx, sy, unlabelled=ux)
    assert blind.labelled is None
    assert blind.label_free.doc_estimate > 0.8
    assert "flipped" in " ".join(blind.notes)


@pytest.mark.parametrize("count", [0, 1, 2, 3, 20, 100, 700])
@pytest.mark.parametrize("classes", [2, 4])
def test_every_amount_of_labels(count, classes):
    sx, sy = domain(300, 21, classes=classes)
    tx, ty = domain(count, 22, classes=classes)
    ux, _ = domain(100, 23, classes=classes)
    found = run_probe(sx, sy, labelled=tx if count else None, labels=ty if count else None, unlabelled=ux)
    assert (found.n_labels, found.n_classes) == (count, classes)
    assert found.notes
    if count == 0:
        assert found.labelled is None
        return
    for name in ("zero_shot", "target_only", "combined", "weighted", "gain", "gain_weighted"):
        figure = getattr(found.labelled, name)
        if figure is None:
            assert count == 1
            continue
        assert figure.low <= figure.estimate <= figure.high
    if count >= 100:
        assert found.labelled.combined.estimate > 0.8
        assert found.labelled.target_only.estimate > 0.7


def test_without_unlabelled_rows():
    sx, sy = domain(200, 24)
    tx, ty = domain(80, 25)
    found = run_probe(sx, sy, labelled=tx, labels=ty)
    assert found.n_unlabelled == 0
    assert 0.5 < found.labelled.agreement.source_target <= 1
    assert np.isfinite(found.labelled.agreement.halves_correlation)


def test_one_class_of_labels():
    sx, sy = domain(200, 26)
    tx, ty = domain(60, 27)
    found = run_probe(sx, sy, labelled=tx[ty == 1], labels=ty[ty == 1], unlabelled=tx)
    assert found.labelled.target_only.estimate == 1.0
    assert found.labelled.class_balance == 1.0
    assert "All target labels are 1:" in " ".join(found.notes)


def test_labelled_rows_do_not_count_as_unlabelled():
    """The agreement is judged on rows that no probe was trained on, even if the caller passes them twice."""
    sx, sy = domain(200, 28)
    tx, ty = domain(150, 29, noise=1.5)
    apart = PreparedPair(sx, sy, tx[50:]).probe(tx[:50], ty[:50]).labelled.agreement
    twice = PreparedPair(sx, sy, tx).probe(tx[:50], ty[:50]).labelled.agreement
    assert twice.target_combined == pytest.approx(apart.target_combined, abs=0.03)
    assert twice.halves_correlation == pytest.approx(apart.halves_correlation, abs=0.08)


def test_string_labels_and_a_class_that_the_source_lacks():
    sx, sy = domain(200, 30)
    tx, ty = domain(40, 31, classes=3)
    names = np.array(["bad", "good", "mixed"])
    found = run_probe(sx, names[sy], labelled=tx, labels=list(names[ty]), unlabelled=tx)
    assert found.n_classes == 3
    assert "mixed" in " ".join(found.notes)


@pytest.mark.parametrize(
    ("source", "target"),
    [
        (["neg", "pos"], ["neg", "neutral"]),
        (["1", "2", "3", "4", "5"], ["1", "10"]),
        (["bad", "good"], ["bad", "goodish"]),
    ],
)
def test_long_class_names_stay_apart_from_the_source_s(source, target):
    """The same figures as with numbers in the same order: names are names, however long."""
    sx, tx = domain(200, 40)[0], domain(40, 41)[0]
    theirs, ours = np.resize(target, 40), np.resize(source, 200)
    known = sorted({*source, *target})
    numbers = [np.array([known.index(name) for name in side]) for side in (ours, theirs)]
    found = run_probe(sx, ours, labelled=tx, labels=theirs, unlabelled=tx)
    expected = run_probe(sx, numbers[0], labelled=tx, labels=numbers[1], unlabelled=tx)
    assert found.n_classes == len(known)
    assert flatten(found) == flatten(expected)
    assert f"class(es) {target[1]}:" in " ".join(found.notes)


def test_a_prepared_pair_takes_labels_with_another_new_class():
    (sx, sy), tx = domain(200, 42), domain(60, 43)[0]
    names = np.array(["bad", "good"])[sy]
    pair = PreparedPair(sx, names, tx)
    for extra in ("aaaaa", "zzzzz", "good"):
        labels = np.resize(["bad", extra], 60)
        fresh = run_probe(sx, names, labelled=tx, labels=labels, unlabelled=tx)
        assert flatten(pair.probe(tx, labels)) == flatten(fresh)


def test_booleans_are_zero_and_one():
    (sx, sy), (tx, ty) = domain(200, 44), domain(60, 45, classes=3)
    found = run_probe(sx, sy == 1, labelled=tx, labels=ty, unlabelled=tx)
    assert flatten(found) == flatten(run_probe(sx, sy, labelled=tx, labels=ty, unlabelled=tx))
    assert found.n_classes == 3


@pytest.mark.parametrize("turned", [False, True])
def test_names_are_not_compared_with_numbers(turned):
    (sx, sy), (tx, ty) = domain(200, 46), domain(60, 47)
    ours, theirs = (sy.astype(str), ty) if turned else (sy, ty.astype(str))
    with pytest.raises(DataError, match=r"(?s)cannot be compared.*both sides numbers"):
        run_probe(sx, ours, labelled=tx, labels=theirs, unlabelled=tx)


def test_same_seed_same_figures_and_prepared_pair_is_reusable():
    sx, sy = domain(250, 32)
    tx, ty = domain(120, 33)
    pair = PreparedPair(sx, sy, tx, max_rows=100, seed=4)
    first = flatten(pair.probe(tx[:30], ty[:30]))
    pair.probe(tx[:90], ty[:90])
    assert flatten(pair.probe(tx[:30], ty[:30])) == first
    assert (
        flatten(run_probe(sx, sy, labelled=tx[:30], labels=ty[:30], unlabelled=tx, max_rows=100, seed=4))
        == first
    )
    assert pair.probe().n_source == 100


def test_scale_and_offset_of_the_embeddings_do_not_matter():
    sx, sy = domain(200, 34)
    tx, ty = domain(60, 35, shift=1.0)
    plain = flatten(run_probe(sx, sy, labelled=tx, labels=ty, unlabelled=tx))
    moved = flatten(run_probe(7 * sx + 3, sy, labelled=7 * tx + 3, labels=ty, unlabelled=7 * tx + 3))
    assert moved == pytest.approx(plain, abs=1e-6)


def test_result_is_frozen():
    sx, sy = domain(50, 36)
    with pytest.raises(dataclasses.FrozenInstanceError):
        run_probe(sx, sy, unlabelled=sx).n_labels = 3


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"unlabelled": np.zeros((5, 3))}, "embeddings"),
        ({"unlabelled": None}, "too few rows"),
        ({"unlabelled": np.full((5, WIDTH), np.nan)}, "NaN"),
        ({"source_labels": np.zeros(60, dtype=int)}, "one class"),
        ({"source_labels": np.linspace(1, 5, 60)}, "ratings"),
        ({"source_labels": np.zeros(59, dtype=int)}, "does not fit"),
        ({"labelled": np.zeros((4, WIDTH)), "labels": [0, 1]}, "does not fit"),
        ({"source": np.zeros(60)}, "embeddings"),
        ({"source": np.zeros((60, WIDTH))}, "texts of the source all look the same"),
        ({"source": np.full((60, WIDTH), 0.3)}, "texts of the source all look the same"),
        ({"unlabelled": np.full((5, WIDTH), 0.3)}, "texts of the target all look the same"),
        (
            {"unlabelled": None, "labelled": np.ones((4, WIDTH)), "labels": [0, 1, 0, 1]},
            "texts of the target",
        ),
    ],
)
def test_bad_input_is_refused(change, message):
    sx, sy = domain(60, 37)
    arguments = {"source": sx, "source_labels": sy, "unlabelled": sx, **change}
    source, labels = arguments.pop("source"), arguments.pop("source_labels")
    with pytest.raises(DataError, match=message):
        run_probe(source, labels, **arguments)


def test_target_rows_inside_the_source_are_reported():
    tx, ty = domain(60, 38)
    found = run_probe(tx, ty, labelled=tx[:20], labels=ty[:20], unlabelled=tx)
    assert "20 source rows are also labelled" in " ".join(found.notes)


@pytest.mark.parametrize("rows", [8, 13, 14, 60])
def test_few_and_many_rows_give_the_same_inverse(rows):
    x, labels = domain(rows, 39)
    x, y = with_constant(x), encode(labels, 2)
    fitted = Fitted.of(plain_prior(x, x[:3], 2.0, 1), y)
    np.testing.assert_allclose(fitted.inverse, np.linalg.inv(x @ x.T / 2 + np.eye(rows)), atol=1e-10)
    inside, _ = fitted.prior.predict(y, np.arange(rows), np.arange(rows))
    np.testing.assert_allclose(inside[:, 0], sklearn_ridge(2.0).fit(x, y[:, 0]).predict(x), atol=1e-9)
