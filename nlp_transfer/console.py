"""What the user sees: notices and warnings on standard error, from the main process only."""

from __future__ import annotations

import contextlib
import functools
import logging
import os
import warnings
from collections.abc import Iterable, Iterator
from contextvars import ContextVar
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


class _Unasked(logging.Filter):
    """Drops messages of transformers that ask nothing of the user.

    Weights that are tied or computed are "missing" in every checkpoint of an encoder-decoder; what is really
    missing is an error when the model is loaded.
    """

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether to show the record."""
        text = str(record.msg)
        return not text.startswith(("There were missing keys in the checkpoint", "mtime may not be reliable"))


@contextlib.contextmanager
def calm() -> Iterator[None]:
    """Hide the bars of datasets and transformers, and warnings of peft that ask nothing of the user.

    Everything is as it was after the block.
    """
    import datasets
    from transformers.utils import logging as transformers_logging

    shown = not datasets.are_progress_bars_disabled(), transformers_logging.is_progress_bar_enabled()
    datasets.disable_progress_bars()
    transformers_logging.disable_progress_bar()
    handlers, unasked = logging.getLogger("transformers").handlers, _Unasked()
    for handler in handlers:
        handler.addFilter(unasked)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "`is_gradient_checkpointing` is deprecated", FutureWarning)
            warnings.filterwarnings("ignore", "Could not find a config file in", UserWarning)
            warnings.filterwarnings("ignore", "Unable to fetch remote file", UserWarning)
            warnings.filterwarnings("ignore", "Recommended: pip install sacremoses", UserWarning)
            yield
    finally:
        for handler in handlers:
            handler.removeFilter(unasked)
        if shown[0]:
            datasets.enable_progress_bars()
        if shown[1]:
            transformers_logging.enable_progress_bar()


@functools.cache
def notice(text: str) -> None:
    """Say something worth knowing, once in a process."""
    _say(text, "dim")


_KEPT: ContextVar[list[str] | None] = ContextVar("kept", default=None)


@contextlib.contextmanager
def kept_warnings() -> Iterator[list[str]]:
    """Collect what ``warn`` says inside the block, where it says each text once."""
    found: list[str] = []
    token = _KEPT.set(found)
    try:
        yield found
    finally:
        _KEPT.reset(token)


def warned() -> list[str]:
    """What ``warn`` has said so far inside the block of ``kept_warnings``."""
    return list(_KEPT.get() or ())


def remember(texts: Iterable[str]) -> None:
    """Keep warnings that were said before this process began, without saying them again."""
    kept = _KEPT.get()
    if kept is not None:
        kept.extend(text for text in texts if text not in kept)


def warn(text: str) -> None:
    """Say something that may need an action."""
    kept = _KEPT.get()
    if kept is not None:
        if text in kept:
            return
        kept.append(text)
    _say(f"warning: {text}", "yellow")


def fail(message: str) -> None:
    """Say why this ends; from whichever process calls."""
    from rich.text import Text

    stderr().print(Text.assemble(("error: ", "bold red"), message))


def _say(text: str, style: str) -> None:
    if is_main_process():
        from rich.text import Text

        stderr().print(Text(text, style=style))
