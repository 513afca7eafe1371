"""What the user sees: notices and warnings on standard error, from the main process only."""

from __future__ import annotations

import functools
import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console


def is_main_process() -> bool:
    """True on rank 0, and outside distributed runs."""
    return int(os.environ.get("RANK", "0") or 0) == 0


@functools.cache
def stderr() -> Console:
    """The console for messages."""
    from rich.console import Console

    return Console(stderr=True, highlight=False, soft_wrap=True)


@functools.cache
def stdout() -> Console:
    """The console for results."""
    from rich.console import Console

    return Console(highlight=False, soft_wrap=False)


def notice(text: str) -> None:
    """Say something worth knowing."""
    _say(text, "dim")


def warn(text: str) -> None:
    """Say something that may need an action."""
    _say(f"warning: {text}", "yellow")


def _say(text: str, style: str) -> None:
    if is_main_process():
        from rich.text import Text

        stderr().print(Text(text, style=style))
