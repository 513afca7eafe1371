"""Several sources for one target: ranked by the forecast, judged together, written together."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nlp_transfer.data.domains import DomainData
from nlp_transfer.errors import DataError
from nlp_transfer.models.load import ModelOptions, locate
from nlp_transfer.shift.report import SCHEMA_VERSION, ShiftReport, shift_report

if TYPE_CHECKING:
    from nlp_transfer.tasks.translation import TranslationTask

LEVELS = ("low", "moderate", "high")


def shift_reports(
    sources: Sequence[DomainData],
    target: DomainData,
    *,
    model: ModelOptions | None = None,
    task: TranslationTask | None = None,
    **settings: Any,
) -> list[ShiftReport]:
    """Compare each source with the target; the best forecast first.

    Args:
        sources: one or more.
        target: the domain that the model is for.
        model: the encoder, or the translation model.
        task: what to translate, where the domains are parallel text.
        settings: of :func:`~nlp_transfer.shift.report.shift_report`.

    Returns:
        Reports by predicted gain, then by probability of harm, then by the size of the shift; sources
        without a forecast last.
    """
    settings |= _model(model, task)
    return sorted((shift_report(source, target, **settings) for source in sources), key=_place)


def rank_targets(
    source: DomainData,
    targets: Sequence[DomainData],
    *,
    task: TranslationTask,
    model: ModelOptions | None = None,
    **settings: Any,
) -> list[ShiftReport]:
    """Compare one source with each target; what the model translates best, before any training, first.

    Returns:
        Reports by chrF on the target, then by loss; experimental.
    """
    settings |= _model(model, task)
    return sorted((shift_report(source, target, **settings) for target in targets), key=_nearness)


def _model(model: ModelOptions | None, task: TranslationTask | None) -> dict[str, Any]:
    """The embedder, and of parallel text the translator: loaded once for all reports."""
    from nlp_transfer.models.embed import Embedder

    options = model or ModelOptions()
    if task is None:
        return {"embedder": Embedder.load(locate(options), options, normalize=True)}
    from nlp_transfer.shift.translation import Translator

    translator = Translator(task, options)
    return {"translator": translator, "embedder": translator.embedder()}


def _nearness(report: ShiftReport) -> tuple[float, float]:
    assert report.translation is not None
    target = report.translation.target
    return -float(target.chrf["value"] or 0), float(target.loss["value"] or 0)


def _place(report: ShiftReport) -> tuple[bool, float, float, float]:
    risk, size = report.risk, float(report.mmd["inhomogeneity"])
    if risk is None:
        return True, 0.0, 0.0, size
    return False, -risk.predicted_gain.estimate, risk.probability, size


def reaches(reports: Sequence[ShiftReport], level: str) -> bool:
    """Whether the risk of the source ranked first, the one to take, is ``level`` or above.

    A source ranked lower, with a smaller gain, may still be safer.

    Raises:
        DataError: its risk is not known, as of a source with one class.
    """
    risk = reports[0].risk
    if risk is None:
        raise DataError(
            f"there is no risk to judge: {reports[0].source.name} has no forecast",
            expected="a source with labels of two classes or more",
            fix="leave out --fail-on, or give the source its labels",
        )
    return LEVELS.index(risk.level) >= LEVELS.index(level)


def write_reports(reports: Sequence[ShiftReport], folder: Path) -> Path:
    """Write ``report.json`` and ``report.html``; return the path of the page.

    One report is written as it is; several as ``{"schema_version", "target", "ranking", "reports"}``, where
    ``target`` is null if they have several.

    Raises:
        OutputError: the folder cannot be written.
    """
    from nlp_transfer.reporting.html import shift_page
    from nlp_transfer.training.artifacts import write_json, write_text

    if len(reports) == 1:
        return reports[0].write(folder)
    whole = [report.to_dict() for report in reports]
    ranking = [
        {
            "rank": rank,
            "source": values["source"]["name"],
            "target": values["target"]["name"],
            "predicted_gain": values["predicted_gain"],
            "predicted_target_accuracy": values["predicted_target_accuracy"],
            "level": values["risk"] and values["risk"]["level"],
            "probability": values["risk"] and values["risk"]["probability"],
            "zero_shot_chrf": values["translation"] and values["translation"]["target"]["chrf"],
            "zero_shot_loss": values["translation"] and values["translation"]["target"]["loss"],
        }
        for rank, values in enumerate(whole, 1)
    ]
    write_json(
        folder / "report.json",
        {
            "schema_version": SCHEMA_VERSION,
            "target": whole[0]["target"] if len({str(values["target"]) for values in whole}) == 1 else None,
            "ranking": ranking,
            "reports": whole,
        },
    )
    write_text(folder / "report.html", shift_page(reports))
    return folder / "report.html"
