"""The schema of a recipe: load, override, validate, dump. Imports no torch."""

from __future__ import annotations

import functools
import operator
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, get_args

import yaml
from pydantic import Field, PrivateAttr, ValidationError, field_validator, model_validator
from pydantic_core import PydanticCustomError

from nlp_transfer.adaptation import ADAPTATIONS, AdaptationOptions, Setting, misfits
from nlp_transfer.arguments import TrainingFields
from nlp_transfer.data.options import SPLITS, DomainOptions, SourceOptions, anchored
from nlp_transfer.errors import Problem, RecipeError, did_you_mean
from nlp_transfer.models.load import ModelOptions
from nlp_transfer.options import Options
from nlp_transfer.recipe_yaml import RecipeYaml, parse_value, read_yaml
from nlp_transfer.strategies import STRATEGIES, FrozenOptions, FullOptions, LoraOptions
from nlp_transfer.tasks import TASKS, SentimentOptions, TranslationOptions

if TYPE_CHECKING:
    StrategyChoice = FullOptions | FrozenOptions | LoraOptions
    AdaptationChoice = AdaptationOptions
    TaskChoice = SentimentOptions | TranslationOptions
else:
    StrategyChoice, AdaptationChoice, TaskChoice = (
        Annotated[
            functools.reduce(operator.or_, (options for _, options in table.values())),
            Field(discriminator="kind"),
        ]
        for table in (STRATEGIES, ADAPTATIONS, TASKS)
    )


class EarlyStopping(Options):
    """Stop when the validation metric no longer improves."""

    patience: int = Field(default=3, ge=1)
    """Evaluations without an improvement before training stops."""
    threshold: float = Field(default=0.0, ge=0)
    """Smaller improvements do not count."""


class ShiftOptions(Options):
    """The shift summary that stands before training when there are a source and a target."""

    enabled: bool = True
    """Compute it and show it."""
    max_samples: int = Field(default=2000, ge=2)
    """Texts drawn from each domain, by seed."""
    permutations: int = Field(default=200, ge=1)
    """Permutations of the two-sample test."""


class Recipe(Options):
    """Everything one run needs: what to learn, from what, with which model and which strategy."""

    task: TaskChoice = SentimentOptions()
    """What is learned."""
    model: ModelOptions = ModelOptions()
    """Which pretrained model."""
    source: SourceOptions | None = None
    """The domain that knowledge is transferred from; leave it out to train on the target alone."""
    target: DomainOptions
    """The domain the model is for."""
    strategy: StrategyChoice = FullOptions()
    """Which weights move."""
    adaptation: list[AdaptationChoice] = []
    """How the source, or unlabelled target text, helps: a list of methods, which act together."""
    shift: ShiftOptions = ShiftOptions()
    """The shift summary before training."""
    early_stopping: EarlyStopping | None = None
    """Stop when the target's validation metric no longer improves."""
    training: TrainingFields = Field(default_factory=dict)
    """Fields of transformers.TrainingArguments, by their own names."""
    output_dir: str = "runs/run"
    """The run folder."""

    _base: Path | None = PrivateAttr(None)

    @field_validator("output_dir")
    @classmethod
    def _named(cls, value: str) -> str:
        if not value.strip():
            raise ValueError("expected a folder name, found an empty text")
        return value

    @model_validator(mode="after")
    def _consistent(self) -> Recipe:
        if self.source is None and self.target.train is None and self.target.dataset is None:
            raise ValueError("nothing to train on: give target.train, target.dataset or a source")
        if self.early_stopping and self.training.get("eval_strategy") == "no":
            raise ValueError("early_stopping needs evaluations: leave out training.eval_strategy=no")
        if self.training.get("bf16") and self.training.get("fp16"):
            raise ValueError("training.bf16 and training.fp16 are both true: leave out one of them")
        if self.strategy.kind == "frozen" and self.model.pooling == "stock":
            raise ValueError(
                "strategy frozen pools embeddings itself: model.pooling must be auto, mean, cls or last"
            )
        if self.strategy.kind == "frozen" and self.training.get("resume_from_checkpoint"):
            raise ValueError("strategy frozen has no checkpoints: its embeddings are cached; run it again")
        return self

    @model_validator(mode="after")
    def _adaptations_fit(self) -> Recipe:
        setting = Setting(
            strategy=self.strategy.kind,
            task=self.task.kind,
            classes=getattr(self.task, "loss", None) != "mse",
            has_source=self.source is not None and self.source.trains,
            has_target_text=self.target.trains or bool(self.target.given("unlabeled")),
            has_target_labels=self.target.trains,
        )
        found = misfits([(choice.kind, ADAPTATIONS[choice.kind][0]) for choice in self.adaptation], setting)
        if found:
            problems = {("adaptation", index, "kind"): text for index, text in found.items()}
            raise PydanticCustomError("located", "adaptation", {"problems": problems})
        return self

    @property
    def base(self) -> Path | None:
        """The recipe file's folder: relative data paths are tried there too."""
        return self._base

    @property
    def seed(self) -> int:
        """The one seed of a run: ``training.seed``, 42 where it is not set."""
        return int(self.training.get("seed", 42))

    @classmethod
    def load(cls, path: str | Path, overrides: Iterable[str] = ()) -> Recipe:
        """Read a recipe file (or a shipped recipe by name, such as ``sentiment/lora``).

        Args:
            path: a YAML file, or the name of a shipped recipe.
            overrides: texts ``key.path=value``; the value is read as YAML.

        Raises:
            RecipeError: with every problem at once.
        """
        document = read_yaml(find_recipe(path))
        recipe = cls._validate(document, overrides)
        recipe._base = document.path.resolve().parent
        return recipe

    @classmethod
    def from_dict(cls, values: Mapping[str, Any], overrides: Iterable[str] = ()) -> Recipe:
        """Build a recipe from plain values, with the same error messages as :meth:`load`.

        Raises:
            RecipeError: with every problem at once.
        """
        return cls._validate(RecipeYaml(Path("recipe"), dict(values), {}), overrides)

    @classmethod
    def _validate(cls, document: RecipeYaml, overrides: Iterable[str]) -> Recipe:
        problems: list[Problem] = []
        values = _apply_overrides(document.values, overrides, problems)
        try:
            recipe = cls.model_validate(values)
        except ValidationError as error:
            for detail in error.errors():
                problems += _explain(detail, values, document.lines)
        if problems:
            raise RecipeError(str(document.path), problems)
        return recipe

    def __eq__(self, other: object) -> bool:
        """Equal values; where the file lay does not count."""
        return isinstance(other, Recipe) and self.model_dump() == other.model_dump()

    __hash__ = None  # type: ignore[assignment]

    def dump(self) -> str:
        """The recipe with every default filled in, as YAML that :meth:`load` reads back as an equal one."""
        values = _plain(self)
        for role in ("source", "target"):
            for split in SPLITS:
                if split in values.get(role, {}) and self._base is not None:
                    values[role][split] = anchored(values[role][split], self._base)
        return yaml.safe_dump(values, sort_keys=False, allow_unicode=True)


def _plain(value: Any) -> Any:
    """Options as mappings; a null stands only where it is not the default."""
    if isinstance(value, Options):
        fields = type(value).model_fields
        items = ((name, getattr(value, name)) for name in fields)
        return {
            name: _plain(item) for name, item in items if item is not None or fields[name].default is not None
        }
    return [_plain(item) for item in value] if isinstance(value, (list, tuple)) else value


def recipe_schema() -> dict[str, Any]:
    """The JSON Schema (2020-12) of a recipe, for editors."""
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **Recipe.model_json_schema()}


@functools.cache
def shipped_recipes() -> dict[str, Path]:
    """The recipes that come with the package: {"sentiment/lora": path, ...}."""
    package = Path(__file__).parent
    for root in (package / "_recipes", package.parent / "recipes"):
        if root.is_dir():
            files = sorted(root.glob("*/*.yaml"))
            return {
                path.relative_to(root).with_suffix("").as_posix(): path
                for path in files
                if path.parent.name != "accelerate"
            }
    return {}


def find_recipe(path: str | Path) -> Path:
    """Resolve a file path or the name of a shipped recipe.

    Raises:
        RecipeError: neither a file nor a shipped name.
    """
    if Path(path).exists():
        return Path(path)
    shipped = shipped_recipes()
    if str(path) in shipped:
        return shipped[str(path)]
    message = f"no such file, and no shipped recipe of this name: {did_you_mean(path, shipped)}"
    raise RecipeError(str(path), [Problem("recipe", None, message)])


def _apply_overrides(
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


def _explain(detail: Any, values: dict[str, Any], lines: Mapping[tuple, int]) -> list[Problem]:
    """Turn one pydantic error into problems: key as the user wrote it, line, nearest valid name."""
    path, fields = _user_path(detail["loc"], values)
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
        expected = expected or ", ".join(_kinds(path[0]))
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


def _user_path(loc: tuple, values: Any) -> tuple[tuple, list[str]]:
    """Drop the union tags from a pydantic location; return the path and the valid names at its last level."""
    path: list[Any] = []
    model: type[Options] | None = Recipe
    names: list[str] = []
    for index, part in enumerate(loc):
        is_tag = isinstance(values, dict) and part not in values and values.get("kind") == part
        is_branch = isinstance(part, str) and index > 0 and not isinstance(values, dict)
        if is_tag or is_branch:
            model = _model_of_kind(path, part) or model
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


def _kinds(field: Any) -> list[str]:
    """The values of ``kind`` that the options of a recipe's field may have."""
    annotation = Recipe.model_fields[field].annotation if field in Recipe.model_fields else None
    models = [model for model in _options_in(annotation) if "kind" in model.model_fields]
    return [str(model.model_fields["kind"].default) for model in models]


def _nested_model(annotation: Any) -> type[Options] | None:
    return next(iter(_options_in(annotation)), None)


def _options_in(annotation: Any) -> list[type[Options]]:
    """Every options model that an annotation names."""
    if isinstance(annotation, type) and issubclass(annotation, Options):
        return [annotation]
    return [model for arg in get_args(annotation) for model in _options_in(arg)]


def _model_of_kind(path: list[Any], kind: Any) -> type[Options] | None:
    tables: dict[str, Mapping[str, tuple[type, type]]]
    tables = {"strategy": STRATEGIES, "adaptation": ADAPTATIONS, "task": TASKS}
    entry = tables.get(path[0], {}).get(kind)
    return entry[1] if entry else None
