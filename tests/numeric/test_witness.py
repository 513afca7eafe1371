"""The witness function against a double loop and its own identities."""

import math

import numpy as np
import pytest
import torch

from nlp_transfer.errors import DataError, NlpTransferError
from nlp_transfer.numeric import witness as witness_module
from nlp_transfer.numeric.mmd import mmd2, witness


def k(a, b, width=1.2):
    return math.exp(-((a - b) ** 2).sum() / (2 * width**2))


def test_it_is_the_double_loop(monkeypatch):
    monkeypatch.setattr(witness_module, "tile_size", lambda rows, device, threads: 4)
    rng = np.random.default_rng(0)
    x, y, q = rng.normal(size=(11, 3)), rng.normal(1, 1, size=(7, 3)), rng.normal(size=(5, 3))
    found = witness(x, y, q, bandwidth=1.2)
    for i, row in enumerate(x):
        own = sum(k(row, other) for j, other in enumerate(x) if j != i) / 10
        assert found.x[i] == pytest.approx(own - sum(k(row, b) for b in y) / 7, abs=1e-6)
    for i, row in enumerate(y):
        own = sum(k(row, other) for j, other in enumerate(y) if j != i) / 6
        assert found.y[i] == pytest.approx(sum(k(row, a) for a in x) / 11 - own, abs=1e-6)
    for i, row in enumerate(q):
        expected = sum(k(row, a) for a in x) / 11 - sum(k(row, b) for b in y) / 7
        assert found.queries[i] == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("kernel", ["rbf", "laplacian", "cosine", "linear", "polynomial"])
def test_the_difference_of_its_means_is_the_unbiased_mmd(kernel):
    rng = np.random.default_rng(1)
    x, y = rng.normal(size=(30, 4)), rng.normal(0.5, 1, size=(20, 4))
    found = witness(x, y, kernel=kernel)
    widths = [found.bandwidth] if found.bandwidth else None
    expected = mmd2(torch.from_numpy(x), torch.from_numpy(y), kernel=kernel, bandwidths=widths)
    assert found.x.mean() - found.y.mean() == pytest.approx(float(expected), abs=1e-5)
    assert len(found.queries) == 0


def test_it_ranks_the_planted_outliers_first():
    rng = np.random.default_rng(2)
    x, y = rng.normal(size=(100, 2)), rng.normal(size=(100, 2))
    x[:12] = 4 + 0.1 * x[:12]  # only in x
    y[-12:] = -4 + 0.1 * y[-12:]  # only in y
    found = witness(x, y, bandwidth=1.0)
    assert set(found.most_x_like(12)) == set(range(12))
    assert set(found.most_y_like(12)) == set(range(88, 100))


def test_bad_input_is_explained():
    x = np.ones((4, 2))
    with pytest.raises(DataError, match="different widths"):
        witness(x, x, np.ones((3, 5)))
    with pytest.raises(DataError, match="too few rows"):
        witness(x, x[:1])
    with pytest.raises(DataError, match="queries"):
        witness(x, x, np.full((1, 2), np.nan))
    with pytest.raises(NlpTransferError, match="bandwidth"):
        witness(x, x, bandwidth=-1.0)
