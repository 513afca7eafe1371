"""Maps that make source and target features look alike, fitted on unlabelled rows of both.

Each function returns an `Alignment`: one map for the rows of the source, one for those of the target. A head
is trained on mapped source rows and used on mapped target rows.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from scipy.linalg import eigh

from nlp_transfer.numeric._checks import Array, as_pair, as_vector, at_least, one_of
from nlp_transfer.numeric.draws import draw_numbers, draw_rows
from nlp_transfer.numeric.features import KernelMap, LinearMap, Map, NystroemMap


@dataclass(frozen=True, eq=False)
class Alignment:
    """What to do with the rows of either domain.

    Attributes:
        source: maps source rows (n, d) to (n, k).
        target: maps target rows (m, d) to (m, k): an affine or a kernel map, which a model can hold.
        components: the columns are components, whose sizes say how much each counts.
    """

    source: Callable[[np.ndarray], np.ndarray]
    target: Map
    components: bool = False


def coral(source: Array, target: Array, *, regularisation: float = 0.0, centre: bool = True) -> Alignment:
    """Give the source the target's covariance (and mean): CORAL.

    x becomes (x - mean_s) C_s^(-1/2) C_t^(1/2) + mean_t; target rows stay as they are.

    Args:
        source: rows (n, d).
        target: rows (m, d).
        regularisation: added to the diagonal of both covariances, in units of the mean variance; default 0.
            The paper adds 1. Without it directions that hardly vary in the source are blown up; needed
            where a domain has fewer rows than columns.
        centre: match the means too; default true.

    Raises:
        DataError: not matrices, different widths, NaN, or fewer than two rows.

    Cost: O((n + m) d^2 + d^3). It hurts where the classes are mixed differently in the two domains: the
    difference of the means is then one of classes. Source: Sun et al. 2016, "Return of frustratingly easy
    domain adaptation", algorithm 1.
    """
    at_least("regularisation", regularisation, 0)
    a, b = as_pair(source, target, names=("source", "target"))
    of_source, of_target = _covariances(a, b, regularisation)
    matrix = _power(of_source, -0.5) @ _power(of_target, 0.5)
    return _onto_target(a, b, matrix, centre)


def gaussian_transport(
    source: Array, target: Array, *, regularisation: float = 0.0, centre: bool = True
) -> Alignment:
    """The optimal transport between the Gaussians with the domains' means and covariances.

    Like `coral` it gives the source the target's covariance, by the map that moves the rows least:
    C_s^(-1/2) (C_s^(1/2) C_t C_s^(1/2))^(1/2) C_s^(-1/2).

    Args:
        source: rows (n, d).
        target: rows (m, d).
        regularisation: as in `coral`.
        centre: match the means too; default true.

    Raises:
        DataError: not matrices, different widths, NaN, or fewer than two rows.

    Cost: O((n + m) d^2 + d^3). Source: Peyre and Cuturi 2019, "Computational optimal transport", remark 2.31;
    Flamary et al. 2020, "Concentration bounds for linear Monge mapping estimation".
    """
    at_least("regularisation", regularisation, 0)
    a, b = as_pair(source, target, names=("source", "target"))
    of_source, of_target = _covariances(a, b, regularisation)
    root, inverse = _power(of_source, 0.5), _power(of_source, -0.5)
    matrix = inverse @ _power(root @ of_target @ root, 0.5) @ inverse
    return _onto_target(a, b, matrix, centre)


def subspace_alignment(source: Array, target: Array, *, dimensions: int = 80) -> Alignment:
    """Project each domain on its own principal directions, and turn the source's towards the target's.

    Source rows become (x - mean_s) P_s P_s' P_t, target rows (z - mean_t) P_t, with P the leading principal
    directions.

    Args:
        source: rows (n, d).
        target: rows (m, d).
        dimensions: kept directions; default 80; no more than the rows and columns allow.

    Raises:
        DataError: not matrices, different widths, NaN, or fewer than two rows.

    Cost: O((n + m) d min(n, d)). Source: Fernando et al. 2013, "Unsupervised visual domain adaptation using
    subspace alignment", algorithm 1.
    """
    at_least("dimensions", dimensions, 1)
    a, b = as_pair(source, target, names=("source", "target"))
    size = min(dimensions, a.shape[1], len(a) - 1, len(b) - 1)
    of_source, of_target = _directions(a, size), _directions(b, size)
    turned = (of_source @ of_source.T @ of_target).T
    return Alignment(
        LinearMap(turned, -turned @ a.mean(0)),
        LinearMap(of_target.T, -of_target.T @ b.mean(0)),
        components=True,
    )


def transfer_components(
    source: Array,
    target: Array,
    *,
    dimensions: int = 100,
    mu: float = 1.0,
    bandwidth: float | None = None,
    landmarks: int = 500,
    seed: int = 0,
) -> Alignment:
    """Transfer component analysis: components that vary much while the domains' means agree.

    Of the kernel matrix K over all rows: the W that maximise W'KHKW / W'(KLK + mu I)W, where W'KLKW is the
    squared difference of the domains' means and H centres. K is that of Nystroem features, so that a few
    hundred landmarks stand for all rows; with as many landmarks as rows it is exact.

    Args:
        source: rows (n, d).
        target: rows (m, d).
        dimensions: components; default 100.
        mu: weight of the size of W; default 1.
        bandwidth: of the Gaussian kernel; default the median heuristic.
        landmarks: drawn from both domains; default 500.
        seed: of the landmarks.

    Raises:
        DataError: not matrices, different widths, NaN, or fewer than two rows.

    Cost: O((n + m) landmarks (d + landmarks) + landmarks^3), O((n + m) landmarks) memory. Source: Pan et al.
    2011, "Domain adaptation via transfer component analysis", section III.B; Williams and Seeger 2001 for the
    landmarks.
    """
    at_least("dimensions", dimensions, 1)
    a, b = as_pair(source, target, names=("source", "target"))
    nystroem = NystroemMap.fit(a, b, bandwidth=bandwidth, landmarks=landmarks, seed=seed)
    rows = np.concatenate([nystroem(a), nystroem(b)])
    values, vectors = np.linalg.eigh(rows.T @ rows)
    keep = values > values[-1] * 1e-12
    scale, vectors = np.sqrt(values[keep]), vectors[:, keep]
    left = rows @ (vectors / scale)  # K = left diag(scale^2) left'; W lies in the span of left
    gap = (left[: len(a)].mean(0) - left[len(a) :].mean(0)) * scale**2
    total = left.sum(0)
    scatter = (np.eye(len(scale)) - np.outer(total, total) / len(rows)) * np.outer(scale**2, scale**2)
    size = min(dimensions, len(scale))
    _, components = eigh(
        scatter,
        np.outer(gap, gap) + mu * np.eye(len(scale)),
        subset_by_index=[len(scale) - size, len(scale) - 1],
    )
    chosen = ((vectors * scale) @ components[:, ::-1]).T
    both = KernelMap(nystroem.landmarks, nystroem.bandwidth, chosen @ nystroem.weight, np.zeros(size))
    return Alignment(both, both, components=True)


def sample_transport(
    source: Array,
    target: Array,
    *,
    labels: Any = None,
    entropy: float = 0.05,
    class_weight: float = 0.1,
    max_rows: int = 2000,
    seed: int = 0,
) -> Alignment:
    """Move each source row to the mean of the target rows that it is coupled with by optimal transport.

    Args:
        source: rows (n, d).
        target: rows (m, d).
        labels: classes of the source rows (n,): source rows of different classes are kept from sending mass
            to the same target row. Default none.
        entropy: regularisation of the coupling, in units of the mean squared distance; default 0.05.
        class_weight: strength of the class term, in the same unit; default 0.1.
        max_rows: rows of each domain that are coupled, drawn by seed; default 2000. Other source rows move
            as the nearest coupled one does.
        seed: of the draw.

    Raises:
        DataError: not matrices, different widths, NaN, or fewer than two rows.

    Cost: O(max_rows^2) an iteration of Sinkhorn's algorithm, some hundreds of them. It hurts where classes
    are mixed differently in the two domains, since all mass must go somewhere. Source: Courty et al. 2017,
    "Optimal transport for domain adaptation"; Ferradans et al. 2014 for other rows; by POT's ``ot.da``.
    """
    at_least("max_rows", max_rows, 2)
    a, b = as_pair(source, target, names=("source", "target"))
    rng = np.random.default_rng(seed)
    picked = draw_numbers(len(a), max_rows, rng)
    anchors, goal = a[picked], draw_rows(b, max_rows, rng)
    classes = None if labels is None else as_vector("labels", labels, len(a))[picked]
    return Alignment(_couple(anchors, goal, classes, entropy, class_weight), LinearMap.identity(a.shape[1]))


def _couple(
    anchors: np.ndarray, goal: np.ndarray, classes: np.ndarray | None, entropy: float, class_weight: float
) -> Callable[[np.ndarray], np.ndarray]:
    """The displacement of anchor rows under entropic transport, and of other rows by their nearest anchor."""
    import ot
    from sklearn.neighbors import NearestNeighbors

    cost = ot.dist(anchors, goal)
    cost /= max(float(cost.mean()), 1e-12)
    mass = (np.full(len(anchors), 1 / len(anchors)), np.full(len(goal), 1 / len(goal)))
    if classes is None:
        method = "sinkhorn" if float(cost.max()) < 500 * entropy else "sinkhorn_stabilized"
        coupling = ot.sinkhorn(*mass, cost, entropy, method=method, numItermax=1000, warn=False)
    else:
        coupling = ot.da.sinkhorn_lpl1_mm(mass[0], classes, mass[1], cost, entropy, class_weight)
    moved = (coupling / np.maximum(coupling.sum(1, keepdims=True), 1e-300)) @ goal
    nearest = NearestNeighbors(n_neighbors=1).fit(anchors)

    def move(rows: np.ndarray) -> np.ndarray:
        rows = np.asarray(rows, dtype=np.float64)
        index = nearest.kneighbors(rows, return_distance=False)[:, 0]
        return rows + (moved - anchors)[index]

    return move


def select_features(
    source: Array,
    target: Array,
    relevance: np.ndarray,
    *,
    keep: int,
    by: Literal["relevance", "invariance", "both"] = "both",
) -> np.ndarray:
    """The numbers of the `keep` columns that tell the labels and do not tell the domains.

    Args:
        source: rows (n, d).
        target: rows (m, d).
        relevance: (d,) how well each column tells the labels, as an F value.
        keep: columns to keep.
        by: relevance alone, invariance alone (smallest F value between the domains), or both: the ranks of
            the two are added.

    Raises:
        DataError: not matrices, different widths, NaN, or fewer than two rows.
    """
    from sklearn.feature_selection import f_classif

    one_of("by", by, ("relevance", "invariance", "both"))
    a, b = as_pair(source, target, names=("source", "target"))
    with np.errstate(divide="ignore", invalid="ignore"), warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # constant columns: nothing tells the domains there
        between, _ = f_classif(np.concatenate([a, b]), np.repeat([0, 1], [len(a), len(b)]))
    ranks = np.zeros(a.shape[1])
    if by != "invariance":
        ranks += _rank(-np.nan_to_num(relevance, nan=-1.0))
    if by != "relevance":
        ranks += _rank(np.nan_to_num(between, nan=0.0))
    return np.sort(np.argsort(ranks, kind="stable")[:keep])


def _rank(values: np.ndarray) -> np.ndarray:
    return np.argsort(np.argsort(values, kind="stable"), kind="stable").astype(float)


def _covariances(a: np.ndarray, b: np.ndarray, regularisation: float) -> tuple[np.ndarray, np.ndarray]:
    """Both covariance matrices, their diagonals raised by a share of the mean variance."""
    found = [np.atleast_2d(np.cov(side, rowvar=False)) for side in (a, b)]
    unit = regularisation * float(np.mean([np.trace(matrix) / len(matrix) for matrix in found]))
    return found[0] + unit * np.eye(len(found[0])), found[1] + unit * np.eye(len(found[1]))


def _power(matrix: np.ndarray, power: float) -> np.ndarray:
    """A power of a symmetric positive matrix; directions without variance stay without."""
    values, vectors = np.linalg.eigh(matrix)
    solid = values > max(values[-1], 0.0) * 1e-12
    raised = np.where(solid, np.where(solid, values, 1.0) ** power, 0.0)
    return (vectors * raised) @ vectors.T


def _onto_target(a: np.ndarray, b: np.ndarray, matrix: np.ndarray, centre: bool) -> Alignment:
    """Source rows times `matrix` about their mean, moved to the target's mean; target rows as they are."""
    goal = b.mean(0) if centre else a.mean(0)
    return Alignment(LinearMap(matrix.T, goal - a.mean(0) @ matrix), LinearMap.identity(a.shape[1]))


def _directions(rows: np.ndarray, size: int) -> np.ndarray:
    """The leading principal directions (d, size)."""
    _, _, right = np.linalg.svd(rows - rows.mean(0), full_matrices=False)
    return right[:size].T
