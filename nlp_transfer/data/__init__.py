"""Text in: files, hub data sets and the built-in sample become two columns, ``text`` and ``label``.

The names below are imported on first use, so that reading a recipe stays fast.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from nlp_transfer.data.checks import Finding, cross_check
    from nlp_transfer.data.domains import DomainData, label_names, load_domain
    from nlp_transfer.data.load import read_dataset, read_table
    from nlp_transfer.data.options import DomainOptions, available_samples
    from nlp_transfer.data.rows import iter_rows
    from nlp_transfer.data.writer import RowWriter

_HOME = {
    "DomainData": "domains",
    "DomainOptions": "options",
    "Finding": "checks",
    "RowWriter": "writer",
    "available_samples": "options",
    "cross_check": "checks",
    "iter_rows": "rows",
    "label_names": "domains",
    "load_domain": "domains",
    "read_dataset": "load",
    "read_table": "load",
}
__all__ = [
    "DomainData",
    "DomainOptions",
    "Finding",
    "RowWriter",
    "available_samples",
    "cross_check",
    "iter_rows",
    "label_names",
    "load_domain",
    "read_dataset",
    "read_table",
]


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
