"""Safe YAML with line numbers, and numbers read the way people write them."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from nlp_transfer.errors import Problem, RecipeError


class _Loader(yaml.SafeLoader):
    """SafeLoader with two rules of YAML 1.2: 2e-5 is a number, and ``no`` is a text (eval_strategy: no)."""

    yaml_implicit_resolvers = {
        first: [(tag, pattern) for tag, pattern in resolvers if tag != "tag:yaml.org,2002:bool"]
        for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:bool", re.compile(r"^(true|True|TRUE|false|False|FALSE)$"), list("tTfF")
)
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?([0-9][0-9_]*)(\.[0-9_]*)?[eE][-+]?[0-9]+$"),
    list("-+0123456789"),
)


@dataclass(frozen=True)
class RecipeYaml:
    """A parsed recipe file: its values, and the line of each key path."""

    path: Path
    values: dict[str, Any]
    lines: dict[tuple, int]


def parse_value(text: str) -> Any:
    """Read the right-hand side of an override as YAML; an empty text is null.

    Raises:
        yaml.YAMLError: not YAML.
    """
    return yaml.load(text, Loader=_Loader)


def read_yaml(path: Path) -> RecipeYaml:
    """Read a recipe file.

    Raises:
        RecipeError: cannot be read, not UTF-8, not YAML (with line and column), a key given twice, or not a
            mapping.
    """
    name = str(path)

    def fail(message: str, line: int | None = None) -> RecipeError:
        return RecipeError(name, [Problem("file", line, message)])

    try:
        text = path.read_text(encoding="utf-8")
    except IsADirectoryError:
        raise fail("expected a YAML file, found a folder") from None
    except PermissionError:
        raise fail("no permission to read it: check the file's mode") from None
    except UnicodeDecodeError as error:
        raise fail(f"not UTF-8 (byte {error.start}): save it as UTF-8") from None
    try:
        node = yaml.compose(text, Loader=_Loader)
        values = yaml.load(text, Loader=_Loader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = f" (column {mark.column + 1})" if mark else ""
        hint = (
            ": indent with spaces"
            if "'\\t'" in str(error.problem)
            else ": check brackets, quotes and indentation"
        )
        raise fail(f"not valid YAML: {error.problem}{where}{hint}", mark.line + 1 if mark else None) from None
    except yaml.YAMLError as error:
        raise fail(f"not valid YAML: {error}") from None
    if not isinstance(values, dict):
        found = "nothing" if values is None else type(values).__name__
        raise fail(f"expected a mapping of keys such as task, model, target; found {found}")
    lines: dict[tuple, int] = {}
    repeated: list[Problem] = []
    _collect_lines(node, (), lines, repeated)
    if repeated:
        raise RecipeError(name, repeated)
    return RecipeYaml(path, values, lines)


def _collect_lines(
    node: yaml.Node | None, path: tuple, lines: dict[tuple, int], repeated: list[Problem]
) -> None:
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            inner = (*path, key.value)
            line = key.start_mark.line + 1
            if inner in lines:
                name = ".".join(map(str, inner))
                repeated.append(Problem(name, line, f"given twice (first on line {lines[inner]}): keep one"))
            lines[inner] = line
            _collect_lines(value, inner, lines, repeated)
    elif isinstance(node, yaml.SequenceNode):
        for index, value in enumerate(node.value):
            lines[(*path, index)] = value.start_mark.line + 1
            _collect_lines(value, (*path, index), lines, repeated)
