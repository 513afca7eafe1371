"""Relation-based transfer: a source-trained teacher hands on its outputs, or how it relates texts."""

from __future__ import annotations

from abc import abstractmethod
from typing import TYPE_CHECKING, Literal

from pydantic import Field, model_validator

from nlp_transfer.adaptation.base import Adaptation, AdaptationOptions, OptionsT

if TYPE_CHECKING:
    from nlp_transfer.adaptation.penalties import Penalty


class TeacherOptions(AdaptationOptions):
    """What the teacher's methods share."""

    teacher: str | None = None
    """Run folder or checkpoint of the teacher; null: the model of this run's own source phase (needs
    ``source.mode`` sequential and target labels)."""


class TeacherMethod(Adaptation[OptionsT]):
    """A term of the loss that holds the model to a teacher, in the last training phase.

    The teacher reads every text once, before the phase; it is not in memory while the model trains. Its own
    source phase as the teacher is the sequential mode: the target phase may not forget what the source
    taught, which pays with few target labels (``target.unlabeled`` texts join, without labels). A teacher
    of its own folder works in joint mode, and without target labels too: both domains' texts are then held
    to it.
    """

    stage = "teacher"
    strategies = ("full", "lora")
    needs_source = False
    needs_target_text = False

    @abstractmethod
    def build(self) -> Penalty:
        """The module."""


class DistillationOptions(TeacherOptions):
    """Learn the teacher's class probabilities."""

    kind: Literal["distillation"] = "distillation"
    weight: float = Field(default=0.5, gt=0)
    """Factor on the distillation loss; the task's own loss counts once."""
    temperature: float = Field(default=2.0, gt=0)
    """Both sides' logits are divided by this."""


class Distillation(TeacherMethod[DistillationOptions]):
    """Logit distillation (Hinton et al. 2015).

    T^2 times the Kullback-Leibler divergence of softened probabilities, for all rows of the batch. It hurts
    where the teacher is wrong on the target.
    """

    summary = "learn a source-trained teacher's softened class probabilities too"
    needs_classes = True

    def build(self) -> Penalty:
        """See the base class."""
        from nlp_transfer.adaptation.teaching import LogitDistillation

        return LogitDistillation(self.options.weight, self.options.temperature)


class RelationalOptions(TeacherOptions):
    """Keep the distances and angles between texts as the teacher sees them."""

    kind: Literal["relational"] = "relational"
    distance_weight: float = Field(default=2.5, ge=0)
    """Factor on the loss over pairs of texts. The paper's 25 and 50, beside a pretrained encoder's small task
    loss, keep the model from learning the task."""
    angle_weight: float = Field(default=5.0, ge=0)
    """Factor on the loss over triplets of texts."""

    @model_validator(mode="after")
    def _something(self) -> RelationalOptions:
        if self.distance_weight == self.angle_weight == 0:
            raise ValueError("distance_weight and angle_weight are both 0: nothing is learned")
        return self


class Relational(TeacherMethod[RelationalOptions]):
    """Relational knowledge distillation (Park et al. 2019, equations 5 and 8).

    Student and teacher may have other sizes: only relations within a batch are compared. Angles cost
    O(rows^3 d), so at most 64 rows of a batch take part in them.
    """

    summary = "keep distances and angles between texts as a source-trained teacher has them"

    def build(self) -> Penalty:
        """See the base class."""
        from nlp_transfer.adaptation.teaching import RelationalDistillation

        return RelationalDistillation(self.options.distance_weight, self.options.angle_weight)
