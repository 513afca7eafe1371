"""What a recipe's user writes and reads: overrides going in, problems coming out."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any, get_args

import yaml

from nlp_transfer.errors import Problem, did_you_mean
from nlp_transfer.options import Options
from nlp_transfer.recipe_yaml import parse_value

Tables = Mapping[str, Mapping[str, tuple[type, type]]]
"""Field of a recipe to its kinds: {kind: (class, options)}."""


def apply_overrides(
    values: dict[str, Any], overrides: Iterable[str], problems: list[Problem]
) -> dict[str, Any]:
    """Return the values with each ``key.path=value`` set; a bad override becomes a problem."""
    merged = _deep_copy(values)
    for text in overrides:
        key, equals, raw = text.partition("=")
        parts = key.strip().split(".")
        if not equals or not all(parts):
            problems.append(Problem(text, None, "expected an override of the form key.path=value"))
            continue
        try:
            value = parse_value(raw)
        except yaml.YAMLError:
            problems.append(Problem(key, None, f"the value {raw!r} is not YAML: quote it"))
            continue
        if not _assign(merged, parts, value):
            problems.append(
                Problem(
                    key,
                    None,
                    "it reaches into something that is not a mapping: give a key that is one",
                )
            )
    return merged


def _assign(container: Any, parts: list[str], value: Any) -> bool:
    """Set container[a][b][c]; a list is indexed by number; a new ``kind`` drops the old kind's options."""
    for part in parts[:-1]:
        if isinstance(container, list) and part.isdigit() and int(part) < len(container):
            container = container[int(part)]
        elif isinstance(container, dict):
            if container.get(part) is None:
                container[part] = {}
            container = container[part]
        else:
            return False
    last = parts[-1]
    if isinstance(container, list) and last.isdigit() and int(last) < len(container):
        container[int(last)] = value
    elif isinstance(container, dict):
        if last == "kind" and container.get("kind") != value:
            container.clear()
        container[last] = value
    else:
        return False
    return True


def _deep_copy(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _deep_copy(item) for key, item in value.items()}
    return [_deep_copy(item) for item in value] if isinstance(value, list) else value


def explain(
    detail: Any, values: dict[str, Any], lines: Mapping[tuple, int], recipe: type[Options], tables: Tables
) -> list[Problem]:
    """Turn one pydantic error into problems: key as the user wrote it, line, nearest valid name."""
    path, fields = _user_path(detail["loc"], values, recipe, tables)
    if detail["type"] == "training_fields":
        found = detail["ctx"]["problems"]
        return [
            Problem(f"training.{name}", lines.get(("training", name)), text) for name, text in found.items()
        ]
    if detail["type"] == "located":
        return [
            Problem(_dotted(place), _line(place, lines), text)
            for place, text in detail["ctx"]["problems"].items()
        ]
    key, line = _dotted(path) or "recipe", _line(path, lines)
    kind, found = detail["type"], detail.get("input")
    if kind == "extra_forbidden":
        message = f"unknown key; {did_you_mean(path[-1], fields)}"
    elif kind == "missing":
        message = "required, and missing"
    elif kind in ("union_tag_invalid", "union_tag_not_found"):
        expected = str(detail["ctx"].get("expected_tags", "")).replace("'", "")
        tag = found.get("kind") if isinstance(found, dict) else found
        key += ".kind"
        expected = expected or ", ".join(tables.get(path[0], {}))
        message = (
            f"found {tag!r}; {did_you_mean(tag, expected.split(', '))}"
            if tag
            else f"required: one of {expected}"
        )
    elif kind == "literal_error":
        expected = detail["ctx"]["expected"]
        message = f"found {found!r}, expected {expected}"
    elif kind == "value_error":
        message = str(detail["ctx"]["error"])
    else:
        wanted = detail["msg"].split(", unable to parse")[0].replace("Input should be", "expected")
        wanted = re.sub("^expected (greater|less)", r"expected a number \1", wanted)
        message = f"{wanted[0].lower()}{wanted[1:]}, found {found!r}"
    return [Problem(key, line, message)]


def _dotted(path: tuple) -> str:
    return ".".join(str(part) for part in path)


def _line(path: tuple, lines: Mapping[tuple, int]) -> int | None:
    """The line of a key, or of the nearest key around it that stands in the file."""
    return next((lines[path[:end]] for end in range(len(path), 0, -1) if path[:end] in lines), None)


def _user_path(loc: tuple, values: Any, recipe: type[Options], tables: Tables) -> tuple[tuple, list[str]]:
    """Drop the union tags from a pydantic location; return the path and the valid names at its last level."""
    path: list[Any] = []
    model: type[Options] | None = recipe
    names: list[str] = []
    for index, part in enumerate(loc):
        kinds = tables.get(path[0], {}) if path else {}
        is_tag = isinstance(values, dict) and part not in values and values.get("kind", part) == part
        is_tag = is_tag and part in kinds
        is_branch = isinstance(part, str) and index > 0 and not isinstance(values, dict)
        if is_tag or is_branch:
            entry = tables.get(path[0], {}).get(part)
            model = entry[1] if entry else model
            continue
        if isinstance(part, int) and isinstance(values, list):
            path.append(part)
            values = values[part] if part < len(values) else None
            continue
        names = list(model.model_fields) if model else []
        path.append(part)
        field = model.model_fields.get(str(part)) if model else None
        model = _nested_model(field.annotation) if field else None
        values = values.get(part) if isinstance(values, dict) else None
    return tuple(path), names


def _nested_model(annotation: Any) -> type[Options] | None:
    return next(iter(options_in(annotation)), None)


def options_in(annotation: Any) -> list[type[Options]]:
    """Every options model that an annotation names."""
    if isinstance(annotation, type) and issubclass(annotation, Options):
        return [annotation]
    return [model for arg in get_args(annotation) for model in options_in(arg)]
