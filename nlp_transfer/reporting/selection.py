"""Terminal output of ``rank``, ``plan``, ``tune`` and ``export``."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich import box
from rich.markup import escape, render
from rich.table import Table

from nlp_transfer.console import stdout
from nlp_transfer.reporting.summary import human
from nlp_transfer.selection.choices import CLOSE

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from nlp_transfer.export import Exported
    from nlp_transfer.numeric.transferability import Estimate
    from nlp_transfer.selection.choices import Option
    from nlp_transfer.selection.plan import Plan
    from nlp_transfer.selection.rank import Candidate, Ranking
    from nlp_transfer.training.search import Search


KEPT_COLUMNS = 3
"""Of a ranking, besides the place: model, score, seconds stay in any terminal."""
ROWS = {
    "classification": "rows with labels",
    "regression": "rows with ratings",
    "translation": "pairs, translated greedily by the models as they are",
}


def print_ranking(ranking: Ranking, output: Path | None = None) -> None:
    """Models for a target, best first, each score with its interval, beside the cost."""
    console, titles = stdout(), ranking.titles
    judged = [one for one in ranking.candidates if one.error is None]
    rows = ROWS[ranking.objective]
    console.print(f"[bold]{escape(ranking.target)}[/bold]  {ranking.rows:,} {rows}")
    if judged:
        table, complete = _ranking_table(ranking, judged, console.width)
        console.print(table)
        console.print(
            f"[dim]ordered by {titles[ranking.score]}, 95 % intervals over resamples of the rows; seconds "
            "for 1,000 texts; * no other model is both better and faster"
            + ("" if complete else "; more columns in a wider terminal, or with --output")
            + "[/dim]"
        )
    for candidate in ranking.candidates:
        if candidate.error is not None:
            reason = candidate.error.removeprefix(f"{candidate.model}: ")
            console.print(f"[bold red]failed[/bold red]  {escape(f'{candidate.model}: {reason}')}")
    if output is not None:
        page = escape(str(output.with_suffix(".html")))
        console.print(f"figures in [bold]{escape(str(output))}[/bold], page [bold]{page}[/bold]")


def _ranking_table(ranking: Ranking, judged: Sequence[Candidate], width: int) -> tuple[Table, bool]:
    """Place, model, score and as many other columns as ``width`` has room for; whether these are all."""
    first = ranking.score
    columns = {
        "": [str(place) for place, _ in enumerate(judged, 1)],
        "model": [escape(one.model) for one in judged],
        ranking.titles[first]: [_score(one.scores[first], full=True) for one in judged],
        "s/1,000": [f"{one.seconds_per_1000:.1f}{' *' if one.pareto else '  '}" for one in judged],
        "layer": [str(one.layer) for one in judged],
        "weights": [human(one.parameters or 0) for one in judged],
    }
    for name, title in ranking.titles.items():
        if name != first:
            columns[title] = [_score(one.scores[name], full=False) for one in judged]
    columns["disk MB"] = [f"{one.disk_mb:,.0f}" for one in judged]
    columns["memory MB"] = [f"{one.memory_mb:,.0f}" for one in judged]
    if all(one.layer in ("last", "all") for one in judged):
        del columns["layer"]
    table, room = Table(box=box.SIMPLE_HEAD), width - 2
    kept: list[list[str]] = []
    for title, cells in columns.items():
        needed = max(len(render(text).plain) for text in (title, *cells)) + 3
        room -= needed
        if room < 0 and len(kept) > KEPT_COLUMNS:
            break
        kept.append(cells)
        numbers = title not in ("", "model")
        table.add_column(title, justify="right" if numbers else "left", no_wrap=numbers, overflow="fold")
    for row in zip(*kept, strict=True):
        table.add_row(*row)
    return table, len(kept) == len(columns)


def _score(found: Estimate, *, full: bool) -> str:
    return f"{found.value:.3f}" + (f" [dim]\\[{found.low:.3f}, {found.high:.3f}][/dim]" if full else "")


def print_plan(plan: Plan, output: Path | None = None) -> None:
    """The answer, why, and all options side by side."""
    console = stdout()
    console.print(f"[bold]{escape(plan.headline)}[/bold]")
    for reason in plan.reasons:
        console.print(f"  {escape(reason)}")
    table = Table(box=box.SIMPLE_HEAD)
    for title in ("", "strategy", "source", "weighted"):
        table.add_column(title, overflow="fold", no_wrap=title != "source")
    for title in ("accuracy (80 %)", "minutes", "GB"):
        table.add_column(title, justify="right", no_wrap=True)
    for option in plan.options:
        chosen = option == plan.choice
        mark = ">" if chosen else "x" if option.why_not else ""
        table.add_row(mark, *_option_cells(option), style="bold" if chosen else None)
    console.print(table)
    ruled_out = ", x ruled out" if any(option.why_not for option in plan.options) else ""
    rule = f"the least time of all options within {100 * CLOSE:g} points of the best"
    console.print(f"[dim]> the choice: {rule}{ruled_out}[/dim]")
    if output is not None:
        console.print(f"nlp-transfer train [bold]{escape(str(output))}[/bold]")


def _option_cells(option: Option) -> list[str]:
    accuracy = option.accuracy
    return [
        option.strategy,
        escape(option.source or "none"),
        "yes" if option.weighted else "no",
        f"{100 * accuracy.estimate:.1f} ({100 * accuracy.low:.1f} to {100 * accuracy.high:.1f})",
        f"{option.minutes:.1f}",
        f"{option.memory_gb:.1f}",
    ]


def print_search(search: Search) -> None:
    """The trials, best first, and where the best recipe is."""
    console = stdout()
    sign = -1.0 if search.greater_is_better else 1.0
    order = sorted(
        search.trials, key=lambda trial: (trial.state != "complete", sign * (trial.score or 0), trial.number)
    )
    table = Table(box=box.SIMPLE_HEAD)
    table.add_column("trial", justify="right")
    for key in search.best_trial.values:
        table.add_column(escape(key), justify="right", overflow="fold")
    table.add_column(search.metric, justify="right")
    for trial in order[:10]:
        values = (trial.values.get(key) for key in search.best_trial.values)
        cells = [f"{value:.3g}" if isinstance(value, float) else escape(str(value)) for value in values]
        score = trial.state if trial.state != "complete" else f"{trial.score:.4f}"
        table.add_row(str(trial.number), *cells, score)
    console.print(table)
    pruned = sum(trial.state == "pruned" for trial in search.trials)
    console.print(
        f"{len(search.trials)} trials, {pruned} cut short; {search.metric} on {search.held_out}, which "
        "chose the best: read it as slightly optimistic"
    )
    console.print(f"nlp-transfer train [bold]{escape(str(search.folder / 'best.yaml'))}[/bold]")


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
