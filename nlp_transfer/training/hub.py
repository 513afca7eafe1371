"""Upload of a finished run to the Hugging Face Hub, by the Trainer's own fields under ``training``.

The Trainer itself does not upload: its checkpoints are no models to ship, and the frozen strategy has none.
What goes to the hub is the run's ``model/`` with the run's card, in one commit, when both are written.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from nlp_transfer.errors import OutputError, Problem, RecipeError

if TYPE_CHECKING:
    from nlp_transfer.recipe import Recipe

HUB_FIELDS = (
    "push_to_hub",
    "hub_model_id",
    "hub_strategy",
    "hub_private_repo",
    "hub_always_push",
    "hub_revision",
)
"""Fields of ``TrainingArguments`` that are read here."""


def hub_name(recipe: Recipe) -> str | None:
    """The repository that a run goes to, as the Trainer names it; None where it is not pushed."""
    if not recipe.training.get("push_to_hub"):
        return None
    return recipe.training.get("hub_model_id") or Path(recipe.output_dir).name


def claim_repository(recipe: Recipe) -> str | None:
    """Make sure, before any training, that the run can be pushed; the whole name of its repository.

    Raises:
        RecipeError: a ``hub_strategy`` that uploads checkpoints.
        OutputError: the hub cannot be reached, or refuses.
    """
    name = hub_name(recipe)
    if name is None:
        return None
    if recipe.training.get("hub_strategy", "end") != "end":
        message = "expected end: the finished model is uploaded, with its card; checkpoints stay here"
        raise RecipeError("recipe", [Problem("training.hub_strategy", None, message)])
    private = recipe.training.get("hub_private_repo")
    with _Refused(
        f"the hub repository {name} cannot be written", "log in with hf auth login, or set HF_TOKEN"
    ):
        return _api().create_repo(name, private=private, exist_ok=True).repo_id


def upload(recipe: Recipe, repository: str, folder: Path) -> str:
    """Commit a run's model and card; return the address of the commit.

    Args:
        recipe: of the run.
        repository: from ``claim_repository``.
        folder: the run folder.

    Raises:
        OutputError: the hub cannot be reached, or refuses; the run is whole.
    """
    from huggingface_hub import CommitOperationAdd

    files = sorted(path for path in (folder / "model").rglob("*") if path.is_file())
    named = {path.relative_to(folder / "model").as_posix(): path for path in files}
    named["README.md"] = folder / "README.md"
    operations = [CommitOperationAdd(name, str(path)) for name, path in named.items()]
    fix = f"the run is whole: upload {folder / 'model'} later, with hf upload {repository}"
    with _Refused(f"{folder} cannot be pushed to {repository}", fix):
        commit = _api().create_commit(
            repository,
            operations,
            commit_message="End of training",
            revision=recipe.training.get("hub_revision"),
        )
    return str(commit.commit_url)


def _api() -> Any:
    from huggingface_hub import HfApi

    return HfApi(library_name="nlp-transfer")


class _Refused:
    """Turns whatever the hub's client raises in the block into one message."""

    def __init__(self, message: str, fix: str) -> None:
        self.message, self.fix = message, fix

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        if isinstance(error, Exception):
            found = str(error).strip().splitlines() or [type(error).__name__]
            raise OutputError(self.message, found=found[0], fix=self.fix) from error
