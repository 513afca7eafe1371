"""The error tree: every error says what was expected, what was found and what to do.

The command line turns any :class:`NlpTransferError` into one message and exit code 2.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from difflib import get_close_matches


class NlpTransferError(Exception):
    """Bad input or a bad environment: something the user can put right.

    Args:
        message: one sentence that says what is wrong, with the name of the file, key or column.
        expected: what would have been right.
        found: what was there instead.
        fix: what to do, as an imperative sentence.
    """

    exit_code = 2

    def __init__(
        self,
        message: str,
        *,
        expected: str | None = None,
        found: str | None = None,
        fix: str | None = None,
    ) -> None:
        self.message, self.expected, self.found, self.fix = message, expected, found, fix
        super().__init__(str(self))

    def __str__(self) -> str:
        lines = [self.message]
        for name in ("expected", "found", "fix"):
            value = getattr(self, name)
            if value is not None:
                lines.append(f"  {name + ':':<9} {value}")
        return "\n".join(lines)

    def __reduce__(self):
        """Keep the parts when the error crosses a process boundary."""
        return _rebuild, (type(self), self.__dict__.copy())


def _rebuild(kind: type[NlpTransferError], state: dict) -> NlpTransferError:
    error = kind.__new__(kind)
    error.__dict__.update(state)
    Exception.__init__(error, str(error))
    return error


class DataError(NlpTransferError):
    """A data file, a column, a label or a text that cannot be used."""


class ModelError(NlpTransferError):
    """A model, tokenizer or checkpoint that cannot be found, loaded or used for this task."""


class OutputError(NlpTransferError):
    """A folder or file that cannot be written, or that would be overwritten."""


class LaunchError(NlpTransferError):
    """Processes that did not come up, or that cannot do what was asked."""


class TrainingError(NlpTransferError):
    """Training that cannot go on, such as a loss that is not finite; checkpoints are as they were."""


class InterruptedTraining(NlpTransferError):
    """Ctrl-C or SIGTERM, after a checkpoint was written.

    Args:
        message: what happened.
        exit_code: 130 after Ctrl-C, 143 after SIGTERM.
        fix: how to go on.
    """

    def __init__(self, message: str, *, exit_code: int, fix: str) -> None:
        super().__init__(message, fix=fix)
        self.exit_code = exit_code


class MissingExtraError(NlpTransferError):
    """An optional package is needed and not installed."""

    def __init__(self, package: str, extra: str, purpose: str) -> None:
        super().__init__(
            f"{purpose} needs the package {package!r}, which is not installed",
            fix=f'run: pip install "nlp-transfer[{extra}]"',
        )


@dataclass(frozen=True)
class Problem:
    """One thing wrong with a recipe.

    Attributes:
        key: dotted path of the key, such as ``strategy.kind``.
        line: 1-based line of the recipe file, or None for an override or a missing key's parent.
        message: what is wrong, with what was expected and the nearest valid name.
        override: whether the value was given as key.path=value.
    """

    key: str
    line: int | None
    message: str
    override: bool = False

    def __str__(self) -> str:
        where = f" (line {self.line})" if self.line is not None else ""
        where = " (override)" if self.override else where
        return f"{self.key}{where}: {self.message}"


class RecipeError(NlpTransferError):
    """A recipe that does not fit the schema; all of its problems at once in ``problems``."""

    def __init__(self, name: str, problems: Sequence[Problem]) -> None:
        self.name, self.problems = name, tuple(problems)
        count = len(self.problems)
        head = f"{name}: {count} problem{'s' if count != 1 else ''} in this recipe"
        super().__init__("\n".join([head, *(f"  - {problem}" for problem in self.problems)]))


def did_you_mean(name: object, valid: Iterable[object], limit: int = 12) -> str:
    """Name the nearest valid choice, or list the choices when none is near.

    Example:
        >>> did_you_mean("stratgy", ["strategy", "source"])
        "did you mean 'strategy'?"
    """
    names = [str(choice) for choice in valid]
    near = get_close_matches(str(name), names, n=1, cutoff=0.6)
    if near:
        return f"did you mean {near[0]!r}?"
    shown = ", ".join(sorted(names)[:limit])
    return f"valid names: {shown}" + (", ..." if len(names) > limit else "")
