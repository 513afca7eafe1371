from __future__ import annotations

import math
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nlp_transfer.data.labels import Fate, LabelReader, canonical, natural_order

scalars = st.none() | st.booleans() | st.integers() | st.floats() | st.text()


@pytest.mark.parametrize(
    ("values", "name"),
    [
        ((1, 1.0, "1", " 1 ", "1.0", "1.", "+1", Decimal("1.0")), "1"),
        ((0, 0.0, -0.0, "0", "-0", "0.0"), "0"),
        ((-3, -3.0, "-3"), "-3"),
        ((2.5, "2.5", "2.50", Decimal("2.5")), "2.5"),
        ((True, "True", "true", "TRUE"), "true"),
        ((False, "false"), "false"),
        (("positive", " positive\n"), "positive"),
        (("007",), "007"),
        ((None, "", "  ", math.nan, "nan", "NaN"), None),
    ],
)
def test_equal_labels_meet(values: tuple, name: str | None) -> None:
    assert {canonical(value) for value in values} == {name}


@given(scalars)
def test_canonical_is_stable(value: object) -> None:
    name = canonical(value)
    assert name is None or (name and canonical(name) == name)


@given(st.integers(-(2**53), 2**53))
def test_whole_numbers_meet_in_every_type(number: int) -> None:
    assert (
        canonical(number)
        == canonical(float(number))
        == canonical(str(number))
        == canonical(str(float(number)))
    )


@given(st.floats(allow_nan=False, allow_infinity=False, min_value=-1e15, max_value=1e15))
def test_numbers_meet_their_text(number: float) -> None:
    if "e" not in repr(number):
        assert canonical(number) == canonical(repr(number))


def test_natural_order() -> None:
    assert natural_order(["10", "9", "-1", "2.5"]) == ["-1", "2.5", "9", "10"]
    assert natural_order(["positive", "negative", "positive"]) == ["negative", "positive"]
    assert natural_order(["10", "9", "many"]) == ["10", "9", "many"]


@pytest.mark.parametrize(
    ("stars", "binary", "ternary"),
    [
        (1, "negative", "negative"),
        ("2.0", "negative", "negative"),
        (2.5, "negative", "negative"),
        (3, None, "neutral"),
        ("4 stars", "positive", "positive"),
        ("1 star", "negative", "negative"),
        (5.0, "positive", "positive"),
    ],
)
def test_stars(stars: object, binary: str | None, ternary: str) -> None:
    fate = Fate.DROP if binary is None else Fate.KEEP
    assert LabelReader("stars-binary", objective="classification").read(stars) == (fate, binary)
    assert LabelReader("stars-ternary", objective="classification").read(stars) == (Fate.KEEP, ternary)


@pytest.mark.parametrize("stars", [0, 6, 10, "good", -1, math.inf, True])
def test_what_is_no_star(stars: object) -> None:
    assert LabelReader("stars-binary", objective="classification").read(stars) == (Fate.NOT_STARS, None)


def test_label_map_meets_labels_in_any_spelling() -> None:
    reader = LabelReader({"1": "bad", 2.0: None, True: 1}, objective="classification")
    assert reader.read(1.0) == (Fate.KEEP, "bad")
    assert reader.read("2") == (Fate.DROP, None)
    assert reader.read("True") == (Fate.KEEP, "1")
    assert reader.read("3") == (Fate.UNMAPPED, None)
    assert reader.read(" ") == (Fate.MISSING, None)


def test_class_names_stand_for_integers() -> None:
    reader = LabelReader(None, objective="classification", names=["neg", "pos"])
    assert [reader.read(value) for value in (0, 1)] == [(Fate.KEEP, "neg"), (Fate.KEEP, "pos")]
    assert reader.read(-1) == reader.read(None) == (Fate.MISSING, None)
    by_name = LabelReader({"neg": "bad", "pos": "good"}, objective="classification", names=["neg", "pos"])
    by_id = LabelReader({0: "bad", 1: "good"}, objective="classification", names=["neg", "pos"])
    assert by_name.read(1) == by_id.read(1) == (Fate.KEEP, "good")


def test_numbers_for_regression() -> None:
    reader = LabelReader(None, objective="regression")
    assert reader.read("4.50") == (Fate.KEEP, 4.5)
    assert reader.read(3) == (Fate.KEEP, 3.0)
    assert reader.read("good")[0] == reader.read(math.inf)[0] == Fate.NOT_A_NUMBER
    assert reader.read(math.nan)[0] == Fate.MISSING
    assert LabelReader({"good": 1}, objective="regression").read("good") == (Fate.KEEP, 1.0)
