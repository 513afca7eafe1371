"""The permutation test: naive references, level, power, streaming, device and input handling."""

import json
import warnings

import numpy as np
import pytest
import torch
from scipy import stats

from nlp_transfer.errors import DataError, NlpTransferError
from nlp_transfer.numeric import _mmd_stream, _mmd_tiles
from nlp_transfer.numeric import mmd as mmd_module
from nlp_transfer.numeric.kernels import bandwidth_grid, full_precision, median_bandwidth
from nlp_transfer.numeric.mmd import mmd2, mmd_test

METHODS = ("exact", "block", "linear")


def naive_exact(x, y, width, labels):
    """Unbiased MMD^2 of every labelling from the full kernel matrix, by boolean indexing."""
    z = np.concatenate([x, y]).astype(np.float64)
    square = ((z[:, None] - z[None]) ** 2).sum(2)
    kernel = np.exp(-square / (2 * width**2))
    values = []
    for row in labels.astype(bool):
        a, b = kernel[np.ix_(row, row)], kernel[np.ix_(~row, ~row)]
        n, m = len(a), len(b)
        within = (a.sum() - np.trace(a)) / (n * (n - 1)) + (b.sum() - np.trace(b)) / (m * (m - 1))
        values.append(within - 2 * kernel[np.ix_(row, ~row)].mean())
    return np.array(values)


@pytest.fixture
def small_tiles(monkeypatch):
    monkeypatch.setattr(_mmd_tiles, "tile_size", lambda rows, device, threads: 17)


@pytest.mark.parametrize("sizes", [(40, 40), (25, 61), (3, 50), (2, 2)])
def test_every_permutation_is_the_naive_one(sizes, small_tiles):
    """Tiles that do not divide the rows, three bandwidths of which one is no power of two of the others."""
    rng = np.random.default_rng(0)
    n, m = sizes
    x, y = rng.normal(size=(n, 5)), rng.normal(0.3, 1, size=(m, 5))
    labels = _mmd_tiles.permuted_indicators(n, m, 30, rng)
    kernel = _mmd_tiles.TileKernel("rbf", (3.0, 1.5, 1.1), torch.zeros(5))
    with full_precision():
        features = kernel.features(torch.from_numpy(np.concatenate([x, y])))
        found = _mmd_tiles.exact_statistics(kernel, features, n, labels)
    for index, width in enumerate(kernel.bandwidths):
        np.testing.assert_allclose(found.values[index], naive_exact(x, y, width, labels), atol=2e-6)
        k = np.exp(-((x[:, None] - y[None]) ** 2).sum(2) / (2 * width**2))
        assert found.cross[index] == pytest.approx(k.mean(), rel=1e-5)


def test_labels_are_permutations_of_the_observed_ones():
    labels = _mmd_tiles.permuted_indicators(30, 50, 2000, np.random.default_rng(0))
    assert labels[0].tolist() == [1] * 30 + [0] * 50
    assert (labels.sum(1) == 30).all()
    counts = labels[1:].sum(0)  # each row is x in 30 / 80 of the permutations
    assert stats.chisquare(counts).pvalue > 0.001


@pytest.mark.parametrize("kernel", ["rbf", "laplacian", "cosine", "linear", "polynomial"])
def test_the_report_and_the_penalty_are_one_function(kernel, small_tiles):
    rng = np.random.default_rng(1)
    x, y = rng.normal(2, 1, size=(60, 6)), rng.normal(2.2, 1, size=(45, 6))
    result = mmd_test(x, y, kernel=kernel, permutations=20, method="exact")
    tensors = torch.from_numpy(x), torch.from_numpy(y)
    if result.bandwidths:
        expected = [float(mmd2(*tensors, kernel=kernel, bandwidths=[b])) for b in result.bandwidths]
        assert result.value == result.values[result.bandwidths.index(result.bandwidth)]
    else:
        expected = [float(mmd2(*tensors, kernel=kernel))]
        assert (result.value, result.bandwidth) == (result.values[0], None)
    scale = 1.0 if kernel not in ("linear", "polynomial") else 50.0
    np.testing.assert_allclose(result.values, expected, atol=1e-6 * scale)


def test_one_bandwidth_is_the_plain_permutation_test():
    rng = np.random.default_rng(2)
    x, y = rng.normal(size=(30, 4)), rng.normal(0.4, 1, size=(40, 4))
    result = mmd_test(x, y, bandwidth=1.5, permutations=99, seed=5)
    labels = _mmd_tiles.permuted_indicators(30, 40, 99, np.random.default_rng(5))
    naive = naive_exact(x, y, 1.5, labels)
    np.testing.assert_allclose(result.null, naive[1:], atol=1e-6)
    assert result.p_value == (1 + (naive[1:] >= naive[0]).sum()) / 100
    expected = (naive[0] - naive[1:].mean()) / naive[1:].std()
    assert result.effect_size == pytest.approx(expected, rel=1e-3)
    assert result.interval == pytest.approx(tuple(np.quantile(naive[1:], [0.025, 0.975])), abs=1e-6)


def test_the_fields_agree_with_each_other():
    rng = np.random.default_rng(3)
    x, y = rng.normal(size=(80, 4)), rng.normal(0.15, 1, size=(70, 4))
    result = mmd_test(x, y, permutations=150)
    assert result.bandwidths == bandwidth_grid(median_bandwidth(x, y))
    assert result.p_value == (1 + (result.null >= result.value).sum()) / (1 + len(result.null))
    assert len(result.null) == result.permutations == 150
    assert (result.n_x, result.n_y, result.method, result.kernel) == (80, 70, "exact", "rbf")
    assert "150 rows" in result.method_reason
    assert json.loads(json.dumps(result.as_dict()))["p_value"] == result.p_value


@pytest.mark.parametrize("method", METHODS)
def test_p_values_are_uniform_under_the_null(method):
    """Skewed, dependent columns and unequal sizes; 39 permutations make the p-value uniform on 40 values."""
    rng = np.random.default_rng(4)
    p_values = []
    for seed in range(150):
        z = rng.exponential(size=(90, 3)) @ rng.normal(size=(3, 6))
        options = {"method": method, "permutations": 39, "seed": seed, "block_rows": 20}
        p_values.append(mmd_test(z[:50], z[50:], **options).p_value)
    assert stats.kstest(np.array(p_values) - rng.random(150) / 40, "uniform").pvalue > 0.01


@pytest.mark.parametrize(
    ("shift", "draw"),
    [
        ("mean", lambda rng, n: rng.normal(0.5, 1, size=(n, 10))),
        ("spread", lambda rng, n: rng.normal(0, 1.4, size=(n, 10))),
        ("cluster", lambda rng, n: np.where(rng.random((n, 1)) < 0.8, 0, 3) + rng.normal(size=(n, 10))),
    ],
)
@pytest.mark.parametrize("method", METHODS)
def test_planted_shifts_are_found(method, shift, draw):
    rng = np.random.default_rng(5)
    n = 2000 if method == "linear" else 150
    result = mmd_test(rng.normal(size=(n, 10)), draw(rng, n), method=method)
    assert result.p_value < 0.01
    assert result.effect_size > 3


def test_several_bandwidths_see_what_the_median_misses():
    """A change of spread in many dimensions barely moves the wide kernel."""
    rng = np.random.default_rng(6)
    x, y = rng.normal(size=(200, 20)), rng.normal(0, 1.15, size=(200, 20))
    result = mmd_test(x, y)
    assert result.p_value < 0.01
    assert result.bandwidth < result.bandwidths[-1]
    assert result.effect_size > 1.5 * mmd_test(x, y, bandwidth=median_bandwidth(x, y)).effect_size


def test_inhomogeneity_is_the_energy_coefficient_and_does_not_grow_with_the_sample():
    rng = np.random.default_rng(7)
    found = []
    for n in (200, 800):
        x, y = rng.normal(size=(n, 2)), rng.normal(1, 1, size=(n, 2))
        result = mmd_test(x, y, bandwidth=1.5, permutations=20)
        k_xy = np.exp(-((x[:, None] - y[None]) ** 2).sum(2) / (2 * 1.5**2)).mean()
        assert result.inhomogeneity == pytest.approx(result.value / (2 - 2 * k_xy), rel=1e-4)
        found.append(result.inhomogeneity)
    assert found[0] == pytest.approx(found[1], rel=0.25)
    apart = mmd_test(np.zeros((20, 2)), np.full((20, 2), 9.0), bandwidth=1.0)
    assert apart.inhomogeneity == pytest.approx(1.0)


def test_blocks_and_quadruples_estimate_the_same_value():
    rng = np.random.default_rng(8)
    x, y = rng.normal(size=(9000, 4)), rng.normal(0.4, 1, size=(6000, 4))
    truth = float(mmd2(torch.from_numpy(x[:3000]), torch.from_numpy(y[:3000]), bandwidths=[2.0]))
    for method in ("block", "linear"):
        result = mmd_test(x, y, method=method, bandwidth=2.0, permutations=100, block_rows=400)
        assert abs(result.value - truth) < 4 * result.null.std() + 0.002
        assert result.p_value < 0.02


def test_one_block_is_the_exact_test():
    rng = np.random.default_rng(9)
    x, y = rng.normal(size=(100, 4)), rng.normal(0.2, 1, size=(80, 4))
    block, exact = (mmd_test(x, y, method=method) for method in ("block", "exact"))
    assert block.values == pytest.approx(exact.values, abs=1e-6)
    assert block.null.std() == pytest.approx(exact.null.std(), rel=0.2)


def test_rows_are_dealt_once_and_at_random():
    x, y = (_mmd_stream.Rows("x", np.zeros((n, 1)), torch.device("cpu")) for n in (1000, 700))
    dealt = list(_mmd_stream._dealt(x, y, 90, 70, np.random.default_rng(0)))
    assert [len(of_x) for of_x, _, _ in dealt] == [90] * 10  # ended by the shorter side
    of_x, of_y = (np.concatenate([batch[side] for batch in dealt]) for side in (0, 1))
    assert len(np.unique(of_x)) == 900
    np.testing.assert_array_equal(np.sort(of_y), np.arange(700))
    assert (np.abs(np.diff(of_x)) == 1).mean() < 0.02  # neighbours in the file are apart
    assert len({int(own.integers(2**62)) for _, _, own in dealt}) == 10


@pytest.mark.parametrize("method", ["block", "linear"])
def test_sorted_rows_do_not_mislead_the_streaming_estimators(method):
    """Both sides sorted: pairing or blocking neighbours would find them more alike than the other side."""
    rng = np.random.default_rng(10)
    p_values = []
    for seed in range(60):
        x, y = (np.sort(rng.normal(size=(1000, 1)), axis=0) for _ in range(2))
        options = {"method": method, "bandwidth": 0.5, "block_rows": 100, "permutations": 39, "seed": seed}
        p_values.append(mmd_test(x, y, **options).p_value)
    assert stats.kstest(np.array(p_values) - rng.random(60) / 40, "uniform").pvalue > 0.01


@pytest.mark.parametrize("method", METHODS)
def test_a_memory_mapped_file_gives_the_same_result(tmp_path, method, monkeypatch):
    monkeypatch.setattr(_mmd_stream, "LARGE_FILE", 0)  # pages are given back here too
    rng = np.random.default_rng(11)
    x, y = rng.normal(size=(500, 8)).astype(np.float32), rng.normal(size=(400, 8)).astype(np.float32)
    np.save(tmp_path / "x.npy", x)
    mapped = np.load(tmp_path / "x.npy", mmap_mode="r")
    from_file, from_memory = (mmd_test(side, y, method=method, block_rows=90) for side in (mapped, x))
    np.testing.assert_array_equal(from_file.null, from_memory.null)
    assert from_file.value == from_memory.value


def test_a_writable_map_keeps_what_was_written(tmp_path, monkeypatch):
    monkeypatch.setattr(_mmd_stream, "LARGE_FILE", 0)
    for mode in ("r+", "c"):
        mapped = np.memmap(tmp_path / "x.bin", np.float32, "w+", shape=(300, 4))
        mapped[:] = 1.0
        mapped.flush()
        mapped = np.memmap(tmp_path / "x.bin", np.float32, mode, shape=(300, 4))
        mapped[7] = 5.0
        mmd_test(mapped, np.random.default_rng(0).normal(size=(300, 4)), permutations=5)
        assert mapped[7, 0] == 5.0


def test_arrays_tensors_and_types_agree():
    rng = np.random.default_rng(12)
    x, y = rng.normal(size=(60, 5)), rng.normal(0.2, 1, size=(50, 5))
    reference = mmd_test(x, y)
    for convert in (torch.from_numpy, np.asfortranarray, lambda a: a.astype(np.float32), lambda a: a[::1]):
        found = mmd_test(convert(x), convert(y))
        assert found.values == pytest.approx(reference.values, abs=1e-6)
    whole = rng.integers(0, 5, size=(40, 3))
    assert mmd_test(whole[:20], whole[20:]).p_value > 0
    half = torch.from_numpy(x).bfloat16().requires_grad_(False)
    assert np.isfinite(mmd_test(half, half + 1).value)


def test_the_seed_decides_and_the_global_state_is_left_alone():
    rng = np.random.default_rng(13)
    x, y = rng.normal(size=(40, 3)), rng.normal(size=(40, 3))
    legacy = np.random.mtrand._rand  # the generator behind np.random.rand and friends
    before = torch.get_rng_state(), legacy.get_state()[1].copy(), torch.get_float32_matmul_precision()
    first, again, other = (mmd_test(x, y, seed=seed) for seed in (1, 1, 2))
    np.testing.assert_array_equal(first.null, again.null)
    assert not np.array_equal(first.null, other.null)
    assert torch.equal(before[0], torch.get_rng_state())
    np.testing.assert_array_equal(before[1], legacy.get_state()[1])
    assert before[2] == torch.get_float32_matmul_precision()


def test_reduced_precision_products_are_switched_off_and_restored():
    rng = np.random.default_rng(14)
    x, y = (rng.normal(size=(256, 64)).astype(np.float32) + 3 for _ in range(2))
    reference = mmd_test(x, y)
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("medium")
    try:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            found = mmd_test(x, y)
        assert torch.get_float32_matmul_precision() == "medium"
    finally:
        torch.set_float32_matmul_precision(before)
    assert found.values == pytest.approx(reference.values, abs=1e-8)


@pytest.mark.parametrize("method", METHODS)
def test_threads_share_the_work_and_give_the_same_result(method, small_tiles):
    rng = np.random.default_rng(16)
    x, y = rng.normal(size=(150, 6)), rng.normal(0.2, 1, size=(130, 6))
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(3)
        first, again = (mmd_test(x, y, method=method, block_rows=40) for _ in range(2))
        assert torch.get_num_threads() == 3
        torch.set_num_threads(1)
        alone = mmd_test(x, y, method=method, block_rows=40)
    finally:
        torch.set_num_threads(before)
    np.testing.assert_array_equal(first.null, again.null)
    np.testing.assert_allclose(first.null, alone.null, atol=1e-7)
    assert first.value == pytest.approx(alone.value, abs=1e-7)


def test_an_error_in_a_thread_reaches_the_caller():
    def broken(a, b):
        raise RuntimeError("no such kernel")

    x = np.random.default_rng(0).normal(size=(20, 2))
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        with pytest.raises(RuntimeError, match="no such kernel"):
            mmd_test(x, x, kernel=broken)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


def test_auto_states_its_choice(monkeypatch):
    cpu = torch.device("cpu")
    choose = mmd_module._choose
    assert choose("auto", 2000, 2000, 384, 600, cpu)[0] == "exact"
    method, reason, rows = choose("auto", 10**6, 10**6, 384, 600, cpu)
    assert method == "block"
    assert f"{rows:,}" in reason
    assert 256 <= rows <= 8192
    assert choose("auto", 10**9, 10**9, 384, 600, cpu)[0] == "linear"
    assert choose("auto", 100_000, 100_000, 384, 600, torch.device("cuda"))[0] == "exact"
    assert choose("linear", 10, 10, 3, 600, cpu)[:2] == ("linear", 'asked for: method="linear"')
    # A tiny side against a large one: each block still gets two of its rows.
    method, _, rows = choose("block", 10, 10**6, 384, 600, cpu)
    assert rows >= 2 * 10**6 / 10
    monkeypatch.setattr(mmd_module, "CPU_BUDGET", 1e8)
    rng = np.random.default_rng(0)
    result = mmd_test(rng.normal(size=(1500, 3)), rng.normal(size=(1500, 3)), permutations=20)
    assert result.method == "block"
    assert "3,000 rows" in result.method_reason


@pytest.mark.parametrize("method", METHODS)
def test_rows_that_are_all_equal_are_no_evidence(method):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        result = mmd_test(np.full((30, 3), 0.1), np.full((20, 3), 0.1), method=method)
    assert (result.p_value, result.effect_size) == (1.0, 0.0)
    assert abs(result.value) < 1e-6
    assert result.inhomogeneity < 1e-6


def test_ties_count_against_a_shift():
    """Of two and two rows only three splits exist, so a third of the null ties with the observed one."""
    x, y = np.array([[0.0], [0.1]]), np.array([[5.0], [5.1]])
    result = mmd_test(x, y, permutations=999)
    assert result.p_value == pytest.approx(1 / 3, abs=0.06)


def test_bad_input_is_explained():
    x = np.random.default_rng(0).normal(size=(20, 3))
    holed = x.copy()
    holed[7, 1] = np.nan
    for method in METHODS:
        with pytest.raises(DataError, match="NaN"):
            mmd_test(x, holed, method=method, bandwidth=1.0)
    with pytest.raises(DataError, match="different widths"):
        mmd_test(x, x[:, :2])
    for few in (x[:0], x[:1]):
        with pytest.raises(DataError, match="too few rows"):
            mmd_test(x, few)
    with pytest.raises(NlpTransferError, match="did you mean 'exact'"):
        mmd_test(x, x, method="exakt")
    with pytest.raises(NlpTransferError, match="unknown kernel"):
        mmd_test(x, x, kernel="gauss")
    with pytest.raises(NlpTransferError, match="permutations"):
        mmd_test(x, x, permutations=0)
    with pytest.raises(NlpTransferError, match="block_rows"):
        mmd_test(x, x, block_rows=1)
    with pytest.raises(NlpTransferError, match="no bandwidth"):
        mmd_test(x, x, kernel="linear", bandwidth=1.0)


def test_the_row_with_the_bad_value_is_named():
    x = np.zeros((20_000, 2), dtype=np.float32)
    x[12_345, 1] = np.inf
    with pytest.raises(DataError, match="row 12345"):
        mmd_test(x, x, bandwidth=1.0, method="linear")
    largest = np.full((4, 2), 3e38, dtype=np.float32)  # finite, though the sum is not
    _mmd_stream.finite_rows("x", torch.from_numpy(largest))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("method", METHODS)
def test_a_gpu_gives_the_same_result(method):
    rng = np.random.default_rng(15)
    x, y = rng.normal(size=(900, 32)), rng.normal(0.1, 1, size=(1100, 32))
    on_cpu, on_gpu = (mmd_test(x, y, method=method, device=device) for device in ("cpu", "cuda"))
    np.testing.assert_allclose(on_gpu.null, on_cpu.null, atol=1e-6)
    assert on_gpu.value == pytest.approx(on_cpu.value, abs=1e-6)
