"""Terminal output of ``rank`` and ``export``."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich import box
from rich.markup import escape
from rich.table import Table

from nlp_transfer.console import stdout
from nlp_transfer.numeric.transferability import SCORES, scores_of
from nlp_transfer.reporting.summary import human

if TYPE_CHECKING:
    from pathlib import Path

    from nlp_transfer.export import Exported
    from nlp_transfer.numeric.transferability import Estimate
    from nlp_transfer.selection.rank import Ranking


def print_ranking(ranking: Ranking, output: Path | None = None) -> None:
    """Models for a target, best first, each score with its interval, beside the cost."""
    console, names = stdout(), scores_of(ranking.objective)
    names.sort(key=lambda name: name != ranking.score)
    table = Table(box=box.SIMPLE_HEAD)
    table.add_column("")
    table.add_column("model", overflow="fold")
    for title in [*(SCORES[name].title for name in names), "parameters", "s / 1,000 texts"]:
        table.add_column(title, justify="right")
    for place, candidate in enumerate(ranking.candidates, 1):
        if candidate.error is not None:
            continue
        layer = f" [dim]layer {candidate.layer}[/dim]" if candidate.layer != "last" else ""
        assert candidate.parameters is not None
        table.add_row(
            str(place),
            escape(candidate.model) + layer,
            *(_score(candidate.scores[name], full=name == ranking.score) for name in names),
            human(candidate.parameters),
            f"{candidate.seconds_per_1000:.1f}{' *' if candidate.pareto else '  '}",
        )
    what = "labels" if ranking.objective == "classification" else "ratings"
    console.print(f"[bold]{escape(ranking.target)}[/bold]  {ranking.rows:,} rows with {what}")
    if table.row_count:
        console.print(table)
        console.print(
            f"[dim]ordered by {SCORES[ranking.score].title}; 95 % intervals over resamples of the rows; "
            "* no other model is both better and faster[/dim]"
        )
    for candidate in ranking.candidates:
        if candidate.error is not None:
            reason = candidate.error.removeprefix(f"{candidate.model}: ")
            console.print(f"[bold red]failed[/bold red]  {escape(f'{candidate.model}: {reason}')}")
    if output is not None:
        console.print(f"figures in [bold]{escape(str(output))}[/bold]")


def _score(found: Estimate, *, full: bool) -> str:
    return f"{found.value:.3f}" + (f" [dim]({found.low:.3f} to {found.high:.3f})[/dim]" if full else "")


def print_export(exported: Exported) -> None:
    """Where the model is, and how it compares with the original."""
    console = stdout()
    form = exported.format + (", int8" if exported.quantization == "int8" else "")
    console.print(f"{form}, {exported.megabytes:,.1f} MB, in [bold]{escape(str(exported.folder))}[/bold]")
    if exported.rows == 0:
        return
    if exported.difference is not None:
        text = f"largest difference of the logits {exported.difference:.2g} on {exported.rows:,} texts"
        if exported.agreement is not None:
            text += f"; {exported.agreement:.1%} with the same class"
    else:
        text = f"{exported.agreement:.1%} of {exported.rows:,} texts translated the same"
        if exported.bleu is not None and exported.original_bleu is not None:
            text += f"; BLEU {exported.bleu:.1f}, original {exported.original_bleu:.1f}"
    console.print(text)
    if exported.format != "merged" and exported.speedup is not None:
        how = "text by text" if exported.format == "onnx" else "in batches"
        console.print(f"{exported.speedup:.1f} times the speed of torch, {how}")
