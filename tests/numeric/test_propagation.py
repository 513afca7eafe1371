"""Label propagation against the closed form on a dense graph."""

import numpy as np
import pytest

from nlp_transfer.numeric.propagation import neighbour_graph, propagate_labels


def naive_graph(rows, k):
    """Gaussian weights between each row and its k nearest others, joined both ways; width: their mean
    distance."""
    n = len(rows)
    distance = np.array([[np.linalg.norm(x - y) for y in rows] for x in rows])
    np.fill_diagonal(distance, np.inf)
    nearest = np.argsort(distance, axis=1)[:, :k]
    scale = np.mean([distance[i, j] for i in range(n) for j in nearest[i]])
    graph = np.zeros((n, n))
    for i in range(n):
        for j in nearest[i]:
            graph[i, j] = graph[j, i] = np.exp(-(distance[i, j] ** 2) / (2 * scale**2))
    return graph


def closed_form(graph, start, alpha):
    """(1 - alpha) (I - alpha D^-1/2 W D^-1/2)^-1 Y."""
    root = np.diag(graph.sum(1) ** -0.5)
    return (1 - alpha) * np.linalg.inv(np.eye(len(graph)) - alpha * root @ graph @ root) @ start


@pytest.fixture
def clouds():
    rng = np.random.default_rng(0)
    labels = np.arange(40) % 3
    rows = rng.normal(size=(70, 4))
    rows[:40, 0] += labels
    return rows[:40], labels, rows[40:]


def test_the_graph_joins_nearest_neighbours_both_ways(clouds):
    rows = np.concatenate([clouds[0], clouds[2]])
    np.testing.assert_allclose(neighbour_graph(rows, 5).toarray(), naive_graph(rows, 5), atol=1e-12)


@pytest.mark.parametrize("alpha", [0.3, 0.8, 0.99])
@pytest.mark.parametrize("given", [False, True])
def test_probabilities_are_the_closed_form(clouds, alpha, given):
    labelled, labels, unlabelled = clouds
    prior = np.random.default_rng(1).dirichlet(np.ones(3), 30) if given else np.zeros((30, 3))
    start = np.concatenate([np.eye(3)[labels], prior])
    expected = closed_form(naive_graph(np.concatenate([labelled, unlabelled]), 6), start, alpha)[40:]
    found = propagate_labels(
        labelled, labels, unlabelled, classes=3, neighbours=6, alpha=alpha, prior=prior if given else None
    )
    np.testing.assert_allclose(found, expected / expected.sum(1, keepdims=True), atol=1e-6)


def test_class_masses_come_out_as_asked(clouds):
    """Columns scaled by one factor each, rows summing to one: the shares are met, the odds keep their
    order."""
    shares = np.array([0.6, 0.3, 0.1])
    plain, scaled = (
        propagate_labels(*clouds, classes=3, neighbours=6, shares=given) for given in (None, shares)
    )
    np.testing.assert_allclose(scaled.mean(0), shares, atol=1e-6)
    factors = (scaled[:, :2] / scaled[:, 2:]) / (plain[:, :2] / plain[:, 2:])
    np.testing.assert_allclose(factors, np.broadcast_to(factors[0], factors.shape), rtol=1e-6)


def test_rows_that_no_label_reaches_are_even():
    rows = np.array([[0.0, 0.0], [0.1, 0.0], [0.0, 0.1]])
    found = propagate_labels(rows, np.array([0, 1, 1]), rows[:2] + 1e3, classes=2, neighbours=1)
    np.testing.assert_allclose(found, 0.5)
