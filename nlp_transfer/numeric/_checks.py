"""Checks of array input, shared by the modules of this package. Private."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import torch

from nlp_transfer.errors import DataError, NlpTransferError, did_you_mean

Array = np.ndarray | torch.Tensor
"""Rows of features: a NumPy array (an ``np.memmap`` too) or a torch tensor."""


def shaped(name: str, value: Any, min_rows: int = 1) -> Array:
    """Return `value` as an array or tensor of shape (rows, columns) without copying it.

    Lists are turned into arrays; one-dimensional input is refused, because (n,) could mean n rows or one.

    Raises:
        DataError: not two-dimensional, not numeric, no columns or fewer than `min_rows` rows.
    """
    if not isinstance(value, (np.ndarray, torch.Tensor)):
        value = np.asarray(value)
    kind_ok = isinstance(value, torch.Tensor) or value.dtype.kind in "fiub"
    if not kind_ok or (isinstance(value, torch.Tensor) and value.is_complex()):
        raise DataError(
            f"{name} is not numeric",
            expected="real numbers",
            found=f"dtype {value.dtype}",
            fix="embed or encode it",
        )
    if value.ndim != 2 or value.shape[1] < 1:
        raise DataError(
            f"{name} has the wrong shape",
            expected="a matrix (rows, columns)",
            found=f"shape {tuple(value.shape)}",
            fix="use value.reshape(-1, 1) for one feature, value.reshape(1, -1) for one row",
        )
    if value.shape[0] < min_rows:
        raise DataError(
            f"{name} has too few rows",
            expected=f"at least {min_rows}",
            found=str(value.shape[0]),
            fix="give more examples",
        )
    return value


def same_width(x: Array, y: Array, x_name: str = "x", y_name: str = "y") -> None:
    """Raise a DataError unless both have the same number of columns."""
    if x.shape[1] != y.shape[1]:
        raise DataError(
            f"{x_name} and {y_name} have different widths",
            expected=f"{x.shape[1]} columns in {y_name}, as in {x_name}",
            found=f"{y.shape[1]} columns",
            fix="embed both sides with the same model and pooling",
        )


def finite_rows(name: str, block: torch.Tensor, numbers: np.ndarray | None = None) -> torch.Tensor:
    """Return `block`, or raise a DataError that names the first row holding NaN or infinity.

    `numbers` are the numbers of its rows in the whole; default 0, 1, ...
    """
    # One sum decides: it is NaN or infinite as soon as one entry is (or it overflowed: look again).
    if not torch.isfinite(block.sum()).item():
        bad = (~torch.isfinite(block)).any(dim=1).nonzero()[:, 0].cpu().numpy()
        if len(bad):
            row = int(bad.min() if numbers is None else numbers[bad].min())
            raise DataError(
                f"{name} holds NaN or infinite values",
                expected="finite numbers",
                found=f"row {row} is not finite",
                fix="drop or repair these rows; empty texts often embed to NaN",
            )
    return block


def as_floats(name: str, value: Any, min_rows: int = 1) -> np.ndarray:
    """Return a finite float64 matrix (rows, columns): for statistics that need the whole array in memory."""
    value = shaped(name, value, min_rows)
    array = value.detach().cpu().to(torch.float64).numpy() if isinstance(value, torch.Tensor) else value
    array = np.asarray(array, dtype=np.float64)
    finite_rows(name, torch.from_numpy(array) if array.flags.writeable else torch.tensor(array))
    return array


def as_pair(
    x: Any, y: Any, min_rows: int = 2, names: tuple[str, str] = ("x", "y")
) -> tuple[np.ndarray, np.ndarray]:
    """Return both sides as finite float64 matrices of the same width."""
    a, b = as_floats(names[0], x, min_rows), as_floats(names[1], y, min_rows)
    same_width(a, b, *names)
    return a, b


def as_vector(name: str, value: Any, length: int | None = None, lengths_of: str = "rows") -> np.ndarray:
    """Return a one-dimensional array, checked against `length` when given.

    Raises:
        DataError: wrong number of dimensions or wrong length.
    """
    array = value.detach().cpu().numpy() if isinstance(value, torch.Tensor) else np.asarray(value)
    if array.ndim != 1 or (length is not None and len(array) != length):
        expected = (
            "one value each" if length is None else f"{length} values, one for each of the {lengths_of}"
        )
        raise DataError(
            f"{name} has the wrong shape",
            expected=expected,
            found=f"shape {array.shape}",
            fix="check the order",
        )
    return array


def as_weights(name: str, value: Any, length: int) -> np.ndarray:
    """Return finite, non-negative float64 weights with a positive sum.

    Raises:
        DataError: wrong length, negative, not finite, or all zero.
    """
    array = as_vector(name, value, length).astype(np.float64)
    if not np.isfinite(array).all() or (array < 0).any() or array.sum() <= 0:
        raise DataError(
            f"{name} cannot be used as weights",
            expected="finite, non-negative numbers, at least one above zero",
            found=f"minimum {array.min():.3g}, sum {array.sum():.3g}",
            fix="clip them at zero and drop rows that are not finite",
        )
    return array


def one_of(name: str, value: object, valid: Iterable[str]) -> None:
    """Raise an NlpTransferError that names the nearest valid choice unless `value` is one of `valid`."""
    choices = sorted(valid)
    if value not in choices:
        raise NlpTransferError(
            f"unknown {name} {value!r}",
            expected=", ".join(choices),
            found=repr(value),
            fix=did_you_mean(value, choices),
        )


def at_least(name: str, value: Any, low: float) -> None:
    """Raise an NlpTransferError unless `value` is a number of at least `low`."""
    if isinstance(value, bool) or not isinstance(value, (int, float, np.number)) or not value >= low:
        raise NlpTransferError(f"{name} is out of range", expected=f"at least {low}", found=repr(value))
