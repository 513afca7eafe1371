"""The schema of a recipe: load, override, validate, dump. Imports no torch."""

from __future__ import annotations

import functools
import operator
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import yaml
from pydantic import Field, PrivateAttr, ValidationError, field_validator, model_validator
from pydantic_core import PydanticCustomError

from nlp_transfer.adaptation import ADAPTATIONS, AdaptationOptions, Setting, misfits
from nlp_transfer.arguments import TrainingFields
from nlp_transfer.data.options import SPLITS, DomainOptions, SourceOptions, anchored
from nlp_transfer.errors import Problem, RecipeError, did_you_mean
from nlp_transfer.models.load import ModelOptions
from nlp_transfer.options import Options
from nlp_transfer.recipe_options import EarlyStopping, GuardOptions, SearchRange, ShiftOptions
from nlp_transfer.recipe_problems import Tables, apply_overrides, explain
from nlp_transfer.recipe_yaml import RecipeYaml, read_yaml
from nlp_transfer.strategies import STRATEGIES, FrozenOptions, FullOptions, LoraOptions
from nlp_transfer.tasks import TASKS, SentimentOptions, TranslationOptions

_TABLES: Tables = {"task": TASKS, "strategy": STRATEGIES, "adaptation": ADAPTATIONS}

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
    guard: GuardOptions = GuardOptions()
    """Watch for negative transfer, in runs with a source."""
    compare_with: str | None = None
    """A run folder: the target's figures stand beside its model's, with the interval of the difference.
    Default: beside the model before the target's rows came in, where it does the task already."""
    early_stopping: EarlyStopping | None = None
    """Stop when the target's validation metric no longer improves."""
    training: TrainingFields = Field(default_factory=dict)
    """Fields of transformers.TrainingArguments, by their own names."""
    tune: dict[str, SearchRange] | None = None
    """What ``nlp-transfer tune`` searches: fields of ``training`` by name, or paths such as strategy.r, with
    their ranges. A run takes no notice of it."""
    output_dir: str = "runs/run"
    """The run folder."""

    _base: Path | None = PrivateAttr(None)

    @field_validator("output_dir")
    @classmethod
    def _named(cls, value: str) -> str:
        if not value.strip():
            raise ValueError("expected a folder name, found an empty text")
        return value

    @model_validator(mode="before")
    @classmethod
    def _defaults_of_the_task(cls, values: Any) -> Any:
        """A task without a kind is sentiment; a translation without a model gets that of its languages."""
        task = values.get("task") if isinstance(values, dict) else None
        if not isinstance(task, dict):
            return values
        model = values.get("model") or {}
        if "kind" not in task:
            return {**values, "task": {"kind": "sentiment", **task}}
        if task["kind"] != "translation" or not isinstance(model, dict):
            return values
        pair = f"{task.get('source_lang')}-{task.get('target_lang')}"
        return {**values, "model": {"name": f"Helsinki-NLP/opus-mt-{pair}", **model}}

    @model_validator(mode="after")
    def _consistent(self) -> Recipe:
        if self.source is None and self.target.train is None and self.target.dataset is None:
            raise ValueError("nothing to train on: give target.train, target.dataset or a source")
        if self.early_stopping and self.training.get("eval_strategy") == "no":
            raise ValueError("early_stopping needs evaluations: leave out training.eval_strategy=no")
        if self.training.get("bf16") and self.training.get("fp16"):
            raise ValueError("training.bf16 and training.fp16 are both true: leave out one of them")
        if self.source is not None and self.source.mix is not None and not self.target.trains:
            raise ValueError("source.mix is a share beside the target's labelled rows: give target.train")
        if self.strategy.kind == "frozen" and self.model.pooling == "stock":
            raise ValueError(
                "strategy frozen pools embeddings itself: model.pooling must be auto, mean, cls or last"
            )
        if self.strategy.kind == "frozen" and self.training.get("resume_from_checkpoint"):
            raise ValueError("strategy frozen has no checkpoints: its embeddings are cached; run it again")
        return self

    @model_validator(mode="after")
    def _fits_task(self) -> Recipe:
        if not isinstance(self.task, TranslationOptions):
            if self.model.init == "scratch":
                raise ValueError("model.init scratch is for the task translation: leave it out")
            if isinstance(self.strategy, FullOptions) and self.strategy.freeze:
                raise ValueError(
                    "strategy.freeze is for the task translation: use freeze_layers, or strategy frozen"
                )
            return self
        if self.model.pooling != "auto":
            raise ValueError("model.pooling is for classifiers: leave it out with the task translation")
        if isinstance(self.strategy, FrozenOptions):
            plain = FrozenOptions()
            given = [name for name, value in self.strategy if value != getattr(plain, name)]
            if given:
                raise ValueError(
                    f"strategy.{given[0]} is for classifiers: strategy frozen with the task translation "
                    "trains the decoder on cached encoder outputs and has no options"
                )
        if self.model.init == "scratch":
            self._check_scratch()
        return self

    def _check_scratch(self) -> None:
        """Refuse what needs a pretrained model."""
        selection = None if self.source is None else self.source.select
        if selection is not None and selection.method == "similarity":
            raise ValueError(
                "source.select.method similarity compares embeddings of a pretrained model, and model.init "
                "scratch has none: use moore_lewis"
            )
        if self.adaptation:
            raise ValueError(
                f"adaptation {self.adaptation[0].kind} weighs rows by a pretrained model's embeddings, and "
                "model.init scratch has none: leave it out"
            )
        if self.strategy.kind != "full":
            raise ValueError(
                f"model.init scratch has nothing pretrained to keep: strategy {self.strategy.kind} "
                "needs model.init pretrained"
            )

    @model_validator(mode="after")
    def _streams_fit(self) -> Recipe:
        source_streams = self.source is not None and self.source.streaming
        if not (source_streams or self.target.streaming):
            return self
        if self.task.kind != "sentiment" or self.strategy.kind == "frozen" or self.adaptation:
            raise ValueError(
                "streaming is for the task sentiment with strategy full or lora, without adaptation: "
                "leave streaming out"
            )
        if self.source is not None and (self.source.mode == "joint" or self.source.select is not None):
            raise ValueError("streaming needs source.mode sequential, and no source.select")
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
            mixes=self.source is not None and self.source.mix is not None,
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
        overrides = list(overrides)
        values = apply_overrides(document.values, overrides, problems)
        try:
            recipe = cls.model_validate(values)
        except ValidationError as error:
            for detail in error.errors():
                problems += explain(detail, values, document.lines, cls, _TABLES)
        if problems:
            given = [f"{text.partition('=')[0].strip()}." for text in overrides]
            problems = [
                replace(one, line=None, override=True) if f"{one.key}.".startswith(tuple(given)) else one
                for one in problems
            ]
            raise RecipeError(str(document.path), problems)
        return recipe

    def __eq__(self, other: object) -> bool:
        """Equal values; where the file lay does not count."""
        return isinstance(other, Recipe) and self.model_dump() == other.model_dump()

    __hash__ = None  # type: ignore[assignment]

    def resolved(self) -> dict[str, Any]:
        """Plain values with every default; what is found beside the recipe alone has its absolute path."""
        values = _plain(self)
        for domain in (values.get("source", {}), values["target"]):
            for key in ("dataset",) if "dataset" in domain else SPLITS:  # splits of a data set are no files
                if key in domain and self._base is not None:
                    domain[key] = anchored(domain[key], self._base)
        return values

    def dump(self) -> str:
        """:meth:`resolved` as YAML, which :meth:`load` reads back as an equal recipe."""
        return yaml.safe_dump(self.resolved(), sort_keys=False, allow_unicode=True)


def _plain(value: Any) -> Any:
    """Options as mappings; a null stands only where it is not the default."""
    if isinstance(value, Options):
        fields = type(value).model_fields
        items = ((name, getattr(value, name)) for name in fields)
        return {
            name: _plain(item) for name, item in items if item is not None or fields[name].default is not None
        }
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
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
    beside = [str(file) for pattern in ("*.yaml", "*.yml") for file in Path(path).parent.glob(pattern)]
    alike = [name for name in (*beside, *shipped) if Path(name).stem == Path(path).stem]
    names = f"did you mean {alike[0]!r}?" if alike else did_you_mean(path, [*beside, *shipped])
    message = f"no such file, and no shipped recipe of this name: {names}"
    raise RecipeError(str(path), [Problem("recipe", None, message)])
