"""Label propagation: labels flow from labelled rows to unlabelled ones along a nearest-neighbour graph."""

from __future__ import annotations

from typing import Any

import numpy as np
from scipy import sparse
from scipy.sparse.linalg import cg
from sklearn.neighbors import NearestNeighbors

from nlp_transfer.numeric._checks import Array, as_pair, as_vector, at_least


def neighbour_graph(rows: np.ndarray, neighbours: int) -> sparse.csr_matrix:
    """Symmetric weights exp(-|x - y|^2 / (2 s^2)) between nearest neighbours; s is their mean distance.

    Cost: O(n^2 d) time by blocks, O(n neighbours) memory.
    """
    k = min(neighbours, len(rows) - 1)
    graph = NearestNeighbors(n_neighbors=k).fit(rows).kneighbors_graph(mode="distance").tocsr()
    scale = max(float(graph.data.mean()), 1e-12)
    graph.data = np.exp(-(graph.data**2) / (2 * scale**2))
    return graph.maximum(graph.T).tocsr()


def propagate_labels(
    labelled: Array,
    labels: Any,
    unlabelled: Array,
    *,
    classes: int,
    neighbours: int = 20,
    alpha: float = 0.95,
    prior: np.ndarray | None = None,
    shares: np.ndarray | None = None,
) -> np.ndarray:
    """Class probabilities of unlabelled rows: F = (1 - alpha) (I - alpha S)^(-1) Y, rows scaled to sum 1.

    S is D^(-1/2) W D^(-1/2) of the nearest-neighbour graph over all rows; Y holds the labels, one-hot, and
    for unlabelled rows the `prior`, or zeros.

    Args:
        labelled: rows (n, d).
        labels: class numbers 0..classes-1 (n,).
        unlabelled: rows (m, d).
        classes: number of classes.
        neighbours: of each row in the graph; default 20.
        alpha: share that comes from the neighbours, in (0, 1); default 0.95.
        prior: a classifier's probabilities of the unlabelled rows (m, classes), to start from instead of
            nothing.
        shares: expected share of each class among the unlabelled rows (classes,): each class's column is
            scaled until its mean is that share (class mass normalisation). Without it one class can flood
            the graph. Default none.

    Returns:
        (m, classes), rows sum to 1; all equal where no label reaches a row.

    Raises:
        DataError: not matrices, different widths, NaN.

    Cost: O((n + m)^2 d) for the graph, O((n + m) neighbours) an iteration of conjugate gradients. It hurts
    where texts of one topic and different classes are nearer than texts of one class. Source: Zhou et al.
    2004, "Learning with local and global consistency", equation 3; Zhu and Ghahramani 2002; Zhu et al. 2003,
    section 4, for the class masses.
    """
    at_least("neighbours", neighbours, 1)
    a, b = as_pair(labelled, unlabelled, min_rows=1, names=("labelled", "unlabelled"))
    start = np.zeros((len(a) + len(b), classes))
    start[np.arange(len(a)), as_vector("labels", labels, len(a)).astype(int)] = 1.0
    if prior is not None:
        start[len(a) :] = prior
    graph = neighbour_graph(np.concatenate([a, b]), neighbours)
    degree = np.sqrt(np.maximum(np.asarray(graph.sum(1)).ravel(), 1e-12))
    normal = sparse.diags(1 / degree) @ graph @ sparse.diags(1 / degree)
    system = sparse.identity(len(start), format="csr") - alpha * normal
    found = np.column_stack([cg(system, (1 - alpha) * column, rtol=1e-8)[0] for column in start.T])
    scores = _rows_to_one(np.maximum(found[len(a) :], 0.0))
    for _ in range(50 if shares is not None else 0):
        scores = _rows_to_one(scores * (np.asarray(shares) / np.maximum(scores.mean(0), 1e-12)))
    return scores


def _rows_to_one(scores: np.ndarray) -> np.ndarray:
    total = scores.sum(1, keepdims=True)
    return np.where(total > 1e-12, scores / np.maximum(total, 1e-12), 1.0 / scores.shape[1])
