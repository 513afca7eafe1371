"""Several sources for one target: ranked by the forecast, judged together, written together."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from nlp_transfer.data.domains import DomainData
from nlp_transfer.models.load import ModelOptions, locate
from nlp_transfer.shift.report import SCHEMA_VERSION, ShiftReport, shift_report

LEVELS = ("low", "moderate", "high")


def shift_reports(
    sources: Sequence[DomainData], target: DomainData, *, model: ModelOptions | None = None, **settings: Any
) -> list[ShiftReport]:
    """Compare each source with the target; the best forecast first.

    Args:
        sources: one or more.
        target: the domain that the model is for.
        model: the encoder.
        settings: of :func:`~nlp_transfer.shift.report.shift_report`.

    Returns:
        Reports by predicted gain, then by probability of harm, then by the size of the shift; sources
        without a forecast last.
    """
    from nlp_transfer.models.embed import Embedder

    options = model or ModelOptions()
    embedder = Embedder.load(locate(options), options, normalize=True)
    return sorted(
        (shift_report(source, target, embedder=embedder, **settings) for source in sources), key=_place
    )


def _place(report: ShiftReport) -> tuple[bool, float, float, float]:
    risk, size = report.risk, float(report.mmd["inhomogeneity"])
    if risk is None:
        return True, 0.0, 0.0, size
    return False, -risk.predicted_gain.estimate, risk.probability, size


def reaches(reports: Sequence[ShiftReport], level: str) -> bool:
    """Whether the best source's risk is ``level`` or above: then no source is safe to take."""
    risk = reports[0].risk
    return risk is not None and LEVELS.index(risk.level) >= LEVELS.index(level)


def write_reports(reports: Sequence[ShiftReport], folder: Path) -> Path:
    """Write ``report.json`` and ``report.html``; return the path of the page.

    One report is written as it is; several as ``{"schema_version", "target", "ranking", "reports"}``.

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
            "predicted_gain": values["predicted_gain"],
            "predicted_target_accuracy": values["predicted_target_accuracy"],
            "level": values["risk"] and values["risk"]["level"],
            "probability": values["risk"] and values["risk"]["probability"],
        }
        for rank, values in enumerate(whole, 1)
    ]
    write_json(
        folder / "report.json",
        {
            "schema_version": SCHEMA_VERSION,
            "target": whole[0]["target"],
            "ranking": ranking,
            "reports": whole,
        },
    )
    write_text(folder / "report.html", shift_page(reports))
    return folder / "report.html"
