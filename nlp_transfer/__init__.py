"""Transfer learning for Hugging Face text models: judge the shift, fine-tune, evaluate, ship."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from nlp_transfer.errors import NlpTransferError
    from nlp_transfer.predict import load_model
    from nlp_transfer.recipe import Recipe
    from nlp_transfer.selection.plan import make_plan
    from nlp_transfer.shift.report import ShiftReport, shift_report
    from nlp_transfer.shift.rows import load_side
    from nlp_transfer.training.run import RunResult, train

__version__ = "0.1.0"

__all__ = [
    "NlpTransferError",
    "Recipe",
    "RunResult",
    "ShiftReport",
    "__version__",
    "load_model",
    "load_side",
    "make_plan",
    "shift_report",
    "train",
]

_HOMES = {
    "NlpTransferError": "nlp_transfer.errors",
    "Recipe": "nlp_transfer.recipe",
    "RunResult": "nlp_transfer.training.run",
    "ShiftReport": "nlp_transfer.shift.report",
    "load_model": "nlp_transfer.predict",
    "load_side": "nlp_transfer.shift.rows",
    "make_plan": "nlp_transfer.selection.plan",
    "shift_report": "nlp_transfer.shift.report",
    "train": "nlp_transfer.training.run",
}


def __getattr__(name: str) -> Any:
    """Import the public names on first use, so that importing the package costs nothing."""
    if name in _HOMES:
        return getattr(importlib.import_module(_HOMES[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
