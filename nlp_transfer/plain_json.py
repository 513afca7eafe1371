"""Values of any kind as those that JSON has."""

from __future__ import annotations

import base64
import datetime
import decimal
import math
from collections.abc import Mapping
from typing import Any


def plain(value: Any) -> Any:
    """A value as JSON can hold it, which other readers than Python's take too.

    NaN and infinity become None, NumPy scalars numbers, dates and times ISO 8601 text, durations seconds,
    decimals text (with all their digits) and bytes base64; mappings, lists and tuples item by item, keys as
    text.

    Example:
        >>> plain({"when": datetime.date(2024, 2, 29), "scores": (float("nan"), 0.5)})
        {'when': '2024-02-29', 'scores': [None, 0.5]}
    """
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    if isinstance(value, (datetime.date, datetime.time)):
        return value.isoformat()
    if isinstance(value, datetime.timedelta):
        return value.total_seconds()
    if isinstance(value, decimal.Decimal):
        return str(value)
    if isinstance(value, (bytes, bytearray)):
        return base64.b64encode(value).decode("ascii")
    if type(value).__module__ == "numpy" and not getattr(value, "shape", None):
        value = value.item()
    return None if isinstance(value, float) and not math.isfinite(value) else value
