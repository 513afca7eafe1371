"""Penalties against naive NumPy, closed forms and finite differences."""

import math

import numpy as np
import pytest
import torch
from scipy.spatial.distance import pdist

from nlp_transfer.adaptation.penalties import (
    Cdan,
    Coral,
    Dann,
    Mmd,
    Rows,
    coral_distance,
    joint_mmd2,
    ramp,
    reverse_gradient,
)
from nlp_transfer.numeric.mmd import mmd2


def drawn(rows=6, size=4, seed=0, shift=0.0):
    """Interleaved source and target rows, in float64."""
    generator = torch.Generator().manual_seed(seed)
    values = torch.randn(rows, size, generator=generator, dtype=torch.float64)
    values[1::2] += shift
    return values


def rows_of(features, classes=2, progress=0.5, **teacher):
    generator = torch.Generator().manual_seed(9)
    logits = torch.randn(len(features), classes, generator=generator, dtype=features.dtype)
    return Rows(logits, {None: features}, torch.tensor(progress, dtype=features.dtype), teacher)


def naive_mmd2(x, y, kernel):
    """The U-statistic by double loops."""
    n, m = len(x), len(y)
    within_x = sum(kernel(x[i], x[j]) for i in range(n) for j in range(n) if i != j) / (n * (n - 1))
    within_y = sum(kernel(y[i], y[j]) for i in range(m) for j in range(m) if i != j) / (m * (m - 1))
    return within_x + within_y - 2 * sum(kernel(a, b) for a in x for b in y) / (n * m)


def gaussians(widths):
    return lambda a, b: np.mean([math.exp(-((a - b) ** 2).sum() / (2 * w * w)) for w in widths])


def test_mmd_is_the_reports_own_and_a_naive_loop():
    features = drawn(8, shift=1.0)
    widths = [0.5, 1.5]
    value, figures = Mmd(2.0, "constant", bandwidths=widths)(rows_of(features))
    x, y = features[0::2].numpy(), features[1::2].numpy()
    expected = naive_mmd2(x, y, gaussians(widths))
    assert figures["distance"].item() == pytest.approx(expected, rel=1e-6)
    assert value.item() == pytest.approx(2 * expected, rel=1e-6)


def test_mmd_sums_over_layers():
    first, second = drawn(8, seed=1, shift=1.0), drawn(8, seed=2, shift=2.0)
    rows = Rows(torch.zeros(8, 2), {0: first, -1: second}, torch.zeros(()))
    both = Mmd(1.0, "constant", (0, -1), bandwidths=[1.0]).distance(rows)
    single = [Mmd(1.0, "constant", (layer,), bandwidths=[1.0]).distance(rows) for layer in (0, -1)]
    assert both.item() == pytest.approx(sum(single).item())
    assert abs(single[0] - single[1]) > 1e-3


def test_joint_mmd_multiplies_the_kernels_of_its_parts():
    parts = [drawn(8, 3, seed=1), drawn(8, 2, seed=2)]
    x, y = (np.hstack([part.numpy()[half::2] for part in parts]) for half in (0, 1))
    kernel = gaussians([0.7, 2.0])
    expected = naive_mmd2(x, y, lambda a, b: kernel(a[:3], b[:3]) * kernel(a[3:], b[3:]))
    assert joint_mmd2(parts, bandwidths=[0.7, 2.0]).item() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize(
    ("kernel", "metric", "similarity"),
    [
        ("rbf", "euclidean", lambda distance, width: math.exp(-(distance**2) / (2 * width**2))),
        ("laplacian", "cityblock", lambda distance, width: math.exp(-distance / width)),
    ],
)
def test_joint_bandwidths_are_medians_of_the_kernels_own_distance(kernel, metric, similarity):
    """An even number of pairs has two middle distances; as in mmd2 the lower one counts."""
    parts = [torch.nn.functional.normalize(drawn(8, 384, seed=1), dim=1), drawn(8, 2, seed=2)]

    def own(rows):
        distances = np.sort(pdist(rows, metric))
        widths = distances[(len(distances) - 1) // 2] * np.array([8**-0.5, 1.0, 8**0.5])
        return lambda a, b: np.mean([similarity(pdist([a, b], metric)[0], width) for width in widths])

    first, second = (own(part.numpy()) for part in parts)
    x, y = (np.hstack([part.numpy()[half::2] for part in parts]) for half in (0, 1))
    expected = naive_mmd2(x, y, lambda a, b: first(a[:384], b[:384]) * second(a[384:], b[384:]))
    assert joint_mmd2(parts, kernel).item() == pytest.approx(expected, rel=1e-5)
    alone = joint_mmd2(parts[:1], kernel).item()
    assert alone == pytest.approx(mmd2(parts[0][0::2], parts[0][1::2], kernel=kernel).item(), rel=1e-5)


def test_joint_mmd_sees_what_marginals_do_not():
    """Both parts are alike in either domain; only their pairing differs."""
    generator = torch.Generator().manual_seed(0)
    sign = torch.randint(2, (400, 1), generator=generator) * 2.0 - 1
    flip = sign.clone()
    flip[1::2] *= -1
    noise = 0.1 * torch.randn(400, 2, generator=generator)
    parts = [sign + noise[:, :1], flip + noise[:, 1:]]
    rows = Rows(torch.zeros(400, 2), {0: parts[0], 1: parts[1]}, torch.zeros(()))
    assert Mmd(1.0, "constant", (0, 1), bandwidths=[1.0]).distance(rows) < 0.02
    assert joint_mmd2(parts, bandwidths=[1.0]) > 0.2


def test_coral_is_numpys_covariances():
    x, y = drawn(10, seed=1), 2 * drawn(7, seed=2)
    difference = np.cov(x.numpy(), rowvar=False) - np.cov(y.numpy(), rowvar=False)
    expected = (difference**2).sum() / (4 * 4**2)
    assert coral_distance(x, y).item() == pytest.approx(expected, rel=1e-6)


def test_coral_in_closed_form():
    """Rows +-a along one axis: variances 2 a^2 of two rows, so (2 a^2 - 2 b^2)^2 / (4 * 1^2)."""
    x, y = torch.tensor([[3.0], [-3.0]]), torch.tensor([[1.0], [-1.0]])
    assert coral_distance(x, y).item() == pytest.approx((18 - 2) ** 2 / 4)
    assert coral_distance(x[:1], y).item() == pytest.approx(2**2 / 4), "one row has no covariance"


def test_standardised_coral_does_not_know_the_scale():
    rows, scaled = drawn(12), 100 * drawn(12)
    values = [Coral(1.0, "constant").distance(rows_of(features)).item() for features in (rows, scaled)]
    assert values[0] == pytest.approx(values[1], rel=1e-5)
    plain = Coral(1.0, "constant", standardize=False).distance(rows_of(rows)).item()
    assert plain == pytest.approx(coral_distance(rows[0::2], rows[1::2]).item())


def test_standardised_coral_gains_nothing_by_shrinking():
    """A function that does not know the scale has no slope along the vectors themselves (Euler)."""
    features = drawn(12).requires_grad_(True)
    Coral(1.0, "constant").distance(rows_of(features)).backward()
    assert features.grad.norm() > 1e-3
    assert abs((features.grad * features).sum().item()) < 1e-6 * features.grad.norm().item()
    moved = features.grad[1::2].sum(0)
    assert moved.norm() < 1e-6 * features.grad.norm(), "covariances do not see where a domain lies"


def test_gradient_is_reversed_and_scaled():
    values = torch.tensor([1.0, 2.0], requires_grad=True)
    passed = reverse_gradient(values, 0.3)
    assert torch.equal(passed, values)
    passed.square().sum().backward()
    assert torch.allclose(values.grad, -0.3 * 2 * values.detach())


def test_ramp_is_ganins():
    for share in (0.0, 0.1, 0.5, 1.0):
        assert ramp(torch.tensor(share)).item() == pytest.approx(
            2 / (1 + math.exp(-10 * share)) - 1, abs=1e-6
        )


def penalties():
    torch.manual_seed(3)
    yield "mmd", Mmd(1.0, "ramp", bandwidths=[0.5, 2.0]), True
    yield "joint", Mmd(1.0, "constant", joint=True, bandwidths=[1.0]), True
    yield "coral", Coral(1.0, "constant", standardize=False), True
    yield "standardised", Coral(1.0, "constant"), True
    yield "dann", Dann(4, 0.7, "ramp", 5, 1.0).double(), False
    yield "cdan", Cdan(4, 2, 0.7, "constant", 5, 1.0, entropy=False).double(), False


@pytest.mark.parametrize(("name", "penalty", "descends"), list(penalties()), ids=lambda v: str(v)[:6])
def test_gradients_are_finite_differences(name, penalty, descends):
    """To a discriminator's features they come reversed, times lambda."""
    features = drawn(6).requires_grad_(True)
    rows = rows_of(features)
    penalty(rows)[0].backward()
    factor = 1.0 if descends else -penalty.factor(rows).item()
    step = 1e-6
    for place in ((0, 0), (3, 2), (5, 1)):
        shifted = []
        for sign in (step, -step):
            moved = features.detach().clone()
            moved[place] += sign
            shifted.append(penalty(rows_of(moved))[0].item())
        slope = (shifted[0] - shifted[1]) / (2 * step)
        assert features.grad[place].item() == pytest.approx(factor * slope, rel=1e-4, abs=1e-9)
        assert name in ("mmd",) or abs(slope) > 1e-7


def test_discriminator_learns_while_its_features_are_confused():
    """One step down the loss helps the discriminator and turns the features against it."""
    torch.manual_seed(0)
    features = drawn(64, shift=1.0).float().requires_grad_(True)
    penalty = Dann(4, 1.0, "constant", 16, 1.0)
    before, _ = penalty(rows_of(features))
    before.backward()
    with torch.no_grad():
        confused = penalty(rows_of(features - 0.5 * len(features) * features.grad))[0]
        for weight in penalty.parameters():
            weight -= 0.1 * weight.grad
        learned = penalty(rows_of(features))[0]
    assert learned < before < confused


def test_dann_loss_is_binary_cross_entropy():
    torch.manual_seed(0)
    penalty, features = Dann(4, 1.0, "constant", 8, 1.0), drawn(10).float()
    scores = penalty.scores(features).detach().double().numpy()
    truth = np.arange(10) % 2
    odds = 1 / (1 + np.exp(-scores))
    expected = -np.mean(truth * np.log(odds) + (1 - truth) * np.log(1 - odds))
    value, figures = penalty(rows_of(features))
    assert value.item() == pytest.approx(expected, rel=1e-5)
    assert figures["accuracy"].item() == pytest.approx(np.mean((scores > 0) == truth))


def test_cdan_map_and_entropy_weights_by_hand():
    torch.manual_seed(0)
    penalty = Cdan(4, 3, 1.0, "constant", 8, 1.0)
    rows = rows_of(drawn(6).float(), classes=3)
    shares = np.exp(rows.logits.numpy()) / np.exp(rows.logits.numpy()).sum(1, keepdims=True)
    outer = np.stack([np.outer(p, f).ravel() for p, f in zip(shares, rows.layers[None].numpy(), strict=True)])
    np.testing.assert_allclose(penalty.inputs(rows).numpy(), outer, rtol=1e-5)
    weights = 1 + np.exp((shares * np.log(shares)).sum(1))
    for half in (0, 1):
        weights[half::2] /= weights[half::2].sum()
    np.testing.assert_allclose(penalty.row_weights(rows, torch.tensor(1.0)).numpy(), weights, rtol=1e-5)


def test_cdan_of_many_classes_is_a_random_map_that_keeps_inner_products():
    """E <T(f, p), T(g, q)> = <f, g> <p, q> (Long et al. 2018, theorem 1)."""
    torch.manual_seed(0)
    penalty = Cdan(100, 50, 1.0, "constant", 8, 1.0)
    rows = rows_of(drawn(4, 100).float(), classes=50)
    mapped, shares = penalty.inputs(rows), rows.logits.softmax(-1).float()
    assert mapped.shape == (4, Cdan.MAX_PRODUCT)
    exact = (rows.layers[None] @ rows.layers[None].T) * (shares @ shares.T)
    assert (mapped @ mapped.T - exact).abs().max() < 0.15 * exact.diagonal().max()


@pytest.mark.parametrize("rows", [2, 4])
@pytest.mark.parametrize("equal", [False, True])
def test_one_pair_and_equal_rows_give_finite_gradients(rows, equal):
    torch.manual_seed(0)
    makers = [
        Mmd(1.0, "constant"),
        Mmd(1.0, "constant", joint=True),
        Coral(1.0, "constant"),
        Dann(4, 1.0, "constant", 4, 1.0),
        Cdan(4, 2, 1.0, "constant", 4, 1.0),
    ]
    for penalty in makers:
        features = (torch.ones(rows, 4) if equal else drawn(rows).float()).requires_grad_(True)
        value, _ = penalty(rows_of(features))
        value.backward()
        assert torch.isfinite(value)
        assert torch.isfinite(features.grad).all()
