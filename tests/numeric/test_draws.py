"""Draws of rows, against the plain loop that they stand for."""

import numpy as np
import pytest

from nlp_transfer.numeric.draws import draw_numbers, draw_rows


@pytest.mark.parametrize("most", [None, 7, 8, 3, 1])
def test_rows_are_drawn_once_each_by_the_generator_and_kept_in_order(most):
    rows = np.arange(14.0).reshape(7, 2)
    reference = list(range(7))
    if most is not None and most < 7:
        reference = sorted(np.random.default_rng(5).choice(7, most, replace=False).tolist())
    assert draw_numbers(7, most, np.random.default_rng(5)).tolist() == reference
    np.testing.assert_array_equal(draw_rows(rows, most, np.random.default_rng(5)), rows[reference])


def test_all_rows_are_taken_without_a_draw_or_a_copy():
    rng, rows = np.random.default_rng(0), np.zeros((4, 1))
    before = rng.bit_generator.state
    assert draw_rows(rows, 4, rng) is rows
    assert rng.bit_generator.state == before
