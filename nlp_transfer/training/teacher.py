"""Teachers: what a source-trained model says about each row, as columns of the rows."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn

from nlp_transfer.console import notice
from nlp_transfer.errors import ModelError
from nlp_transfer.models.features import logits_and_features, unwrap
from nlp_transfer.models.inference import predict_logits
from nlp_transfer.models.load import load_tokenizer, locate, resolve_max_length
from nlp_transfer.processes import main_first

if TYPE_CHECKING:
    from datasets import Dataset

    from nlp_transfer.training.phases import Setup


def add_teacher(
    student: Any, setup: Setup, tables: Sequence[Dataset], texts: Sequence[Dataset]
) -> list[Dataset]:
    """The encoded tables with the columns ``teacher_logits`` and ``teacher_features``.

    Args:
        student: the model as it is before the phase: the teacher, where no other is named.
        setup: of the run; methods that name a teacher must name the same one.
        tables: encoded rows.
        texts: the same rows with their ``text``: the teacher may have another tokenizer.

    Raises:
        ModelError: two teachers, one that cannot be loaded, or one with other classes.

    Cost: one forward pass of the teacher over all rows.
    """
    methods = setup.adaptations("teacher")
    names = {method.options.teacher for method in methods}
    if len(names) > 1:
        raise ModelError(
            "the adaptations name different teachers",
            expected="one teacher for all methods",
            found=", ".join(sorted(map(str, names))),
            fix="name the same folder in each",
        )
    name = names.pop()
    if name is None:
        teacher, tokenizer, order = student, setup.tokenizer, None
        notice("the source phase's model is the teacher")
    else:
        teacher, tokenizer, order = _load(name, setup, any(method.needs_classes for method in methods))
        teacher.to(next(student.parameters()).device)
    length = resolve_max_length(tokenizer, teacher.config, setup.recipe.model.max_length)
    spoken = _Spoken(teacher)
    taught = []
    for table, raw in zip(tables, texts, strict=True):
        encode = functools.partial(setup.task.encode, raw.select_columns(["text"]), tokenizer, length)
        encoded = main_first(functools.partial(encode, name="teacher's texts"))
        said = predict_logits(spoken, encoded, setup.task.collator(tokenizer), bf16=False)
        logits, features = said[:, : spoken.outputs], said[:, spoken.outputs :]
        logits = logits if order is None else logits[:, order]
        columns = {"teacher_logits": logits, "teacher_features": features}
        for column, values in columns.items():
            table = table.add_column(column, list(np.ascontiguousarray(values)))
        taught.append(table)
    return taught


class _Spoken(nn.Module):
    """Logits and features side by side, as ``predict_logits`` wants them."""

    def __init__(self, teacher: nn.Module) -> None:
        super().__init__()
        self.teacher = teacher
        self.outputs = unwrap(teacher).config.num_labels

    def forward(self, **batch: torch.Tensor) -> Any:
        logits, features = logits_and_features(self.teacher, batch)
        return SimpleNamespace(logits=torch.cat([logits.float(), features.float()], 1))


def _load(name: str, setup: Setup, needs_classes: bool) -> tuple[Any, Any, list[int] | None]:
    """The teacher, its tokenizer, and the place of each of our classes among its outputs.

    Raises:
        ModelError: it does not know our classes.
    """
    from nlp_transfer.models.classifier import load_classifier

    options = setup.recipe.model.model_copy(update={"name": name, "revision": None, "pooling": "auto"})
    source = locate(options)
    teacher, tokenizer = load_classifier(source, options), load_tokenizer(source, options)
    notice(f"the teacher is {name}")
    if not needs_classes:
        return teacher, tokenizer, None
    ours = list(setup.task.names)  # type: ignore[attr-defined]
    theirs = [str(label) for _, label in sorted((teacher.config.id2label or {}).items())]
    if sorted(ours) != sorted(theirs):
        raise ModelError(
            f"{name}: a teacher with other classes",
            expected=", ".join(ours),
            found=", ".join(theirs),
            fix="name a run that was trained with the same labels, or use relational alone",
        )
    return teacher, tokenizer, [theirs.index(label) for label in ours]
