"""Rich tables for the terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from rich import box
from rich.markup import escape
from rich.table import Table

from nlp_transfer.console import is_main_process, stdout
from nlp_transfer.reporting import words
from nlp_transfer.reporting.words import METRIC_NAMES

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from nlp_transfer.shift.report import ShiftReport
    from nlp_transfer.training.run import RunResult

SHOWN_NOTES = 4
RISK_STYLES = {"low": "bold green", "moderate": "bold yellow", "high": "bold red", None: "bold"}
VERDICT_STYLES = {"helped": "bold green", "hurt": "bold red", "no evidence": "bold", "not judged": "dim"}
SHIFT_ROWS = (
    "zero_shot_chrf",
    "zero_shot_loss",
    "mmd2",
    "proxy_a_distance",
    "class_conditional_mmd2",
    "unseen_word_rate",
    "token_jensen_shannon",
    "length_ratio",
    "reference_unseen_word_rate",
    "reference_tokens_per_word",
    "label_shift",
    "estimated_label_shift",
)


def figure(metric: dict[str, Any] | None) -> str:
    """A value with its 95 % interval."""
    if metric is None or metric["value"] is None:
        return "-"
    digits = 1 if abs(metric["value"]) >= 2 and "signature" in metric else 3
    text = f"{metric['value']:.{min(4, digits + 1)}f}"
    if metric.get("low") is not None:
        text += f" [{metric['low']:.{digits}f}, {metric['high']:.{digits}f}]"
    return text.replace("-", words.MINUS)


def human(number: int) -> str:
    """A count with thousands separators, shortened from a million on."""
    return f"{number / 1e6:.1f} M" if number >= 1_000_000 else f"{number:,}"


def print_run(result: RunResult) -> None:
    """The summary at the end of a run: metrics, what became of the forecast, cost, and where things are."""
    if not is_main_process():
        return
    domains = result.metrics["domains"]
    table = Table(box=box.SIMPLE_HEAD)
    table.add_column("metric")
    scored = {role: domains[role] for role in ("target", "source") if role in domains}
    columns = [
        (role, "test" if "test" in splits else "validation")
        for role, splits in scored.items()
        if splits.keys() & {"test", "validation"}
    ]
    for role, split in columns:
        table.add_column(f"{role} {split}\n{escape(domains[role]['name'])}", justify="right")
    for key, name in METRIC_NAMES.items():
        cells = [domains[role][split].get(key) for role, split in columns]
        if any(cell is not None for cell in cells):
            table.add_row(name, *(figure(cell) for cell in cells))
    console = stdout()
    console.print(f"[bold]{result.strategy}[/bold]  {escape(result.metrics['model'])}")
    if columns:
        console.print(table)
    for line in words.against_baselines(domains) + words.ledger(result.metrics.get("forgetting")):
        console.print(escape(line))
    guard = result.metrics.get("guard")
    foretold = words.foretold(result.shift, domains.get("target", {}))
    if foretold is not None and (guard is None or guard["shipped"] != "baseline"):
        console.print(foretold)
    print_verdict(guard)
    cost = result.metrics["cost"]
    console.print(
        f"training {cost['training_seconds']:.1f} s of {cost['seconds']:.1f} s   "
        f"peak memory {cost['peak_memory_mib']:,.0f} MiB"
    )
    console.print(
        f"trained {human(cost['trainable_parameters'])} of {human(cost['total_parameters'])} parameters"
    )
    console.print(f"model, metrics.json and model card in [bold]{escape(str(result.output_dir))}[/bold]")


def print_verdict(guard: dict[str, Any] | None) -> None:
    """Whether the source helped."""
    if guard is None:
        return
    verdict, sentence = guard["verdict"], guard["sentence"]
    style = VERDICT_STYLES[verdict]
    repeated = sentence.lower().startswith(verdict)
    rest = sentence[len(verdict) :] if repeated else f"  {sentence}"
    stdout().print(f"[{style}]transfer: {verdict}[/{style}]{escape(rest)}")


def print_shift(report: ShiftReport, rest: str | None = None) -> None:
    """The shift summary: the verdict first, then what it rests on.

    ``rest`` says where the caveats beyond the first few stand; None prints them all.
    """
    if not is_main_process():
        return
    console, risk = stdout(), report.risk
    style = RISK_STYLES[risk.level if risk else None]
    names = f"{escape(report.source.name)} \u2192 {escape(report.target.name)}"
    console.print(f"[bold]{names}[/bold]: [{style}]{escape(words.headline(report))}[/{style}]")
    console.print(escape(words.sentence(report)))
    advice = words.advice(report)
    if advice is not None:
        console.print(f"[bold]Advice:[/bold] {escape(advice)}.")
    if risk is not None:
        accuracy, gain = risk.predicted_target_accuracy, risk.predicted_gain
        console.print()
        console.print(
            f"predicted accuracy  [bold]{words.percent(accuracy.estimate)}[/bold]  "
            f"[dim]{words.accuracy_range(accuracy)}[/dim]"
        )
        console.print(
            f"predicted gain      [bold]{words.points(gain.estimate)} points[/bold]  "
            f"[dim]{words.gain_range(gain)}[/dim]"
        )
    for reason in words.reasons(report):
        console.print(f"  \u2022 {escape(reason)}")
    if risk is not None:
        console.print(f"[dim]{escape(words.study(report))}[/dim]")
    console.print(_shift_table(report))
    console.print("[dim]* where the value would lie if both samples came from one domain[/dim]")
    shown = report.caveats if rest is None else report.caveats[:SHOWN_NOTES]
    for caveat in shown:
        console.print(f"[dim]Note: {escape(caveat)}[/dim]")
    if len(shown) < len(report.caveats):
        console.print(f"[dim]{len(report.caveats) - len(shown)} more {rest}.[/dim]")
    console.print(f"[dim]{escape(report.model)}, {report.seconds:.1f} s[/dim]")


def print_shift_reports(reports: Sequence[ShiftReport], output: Path | None) -> None:
    """One report as a summary, several as a ranking; and where the files are."""
    if len(reports) == 1:
        written = "in report.json and report.html"
        print_shift(reports[0], written if output is not None else f"with --output FOLDER, {written}")
    else:
        print_ranking(reports)
    if output is not None and is_main_process():
        stdout().print(f"report.html and report.json in [bold]{escape(str(output))}[/bold]")


def _shift_table(report: ShiftReport) -> Table:
    """The statistics that say most."""
    table = Table(box=box.SIMPLE_HEAD)
    for column in ("statistic", "value", "95 % range", "p-value"):
        table.add_column(column, justify="left" if column == "statistic" else "right")
    for name in SHIFT_ROWS:
        item = report.statistic(name)
        if item is not None:
            mark = "*" if item.interval and item.interval_of == "no shift" else " "
            ends = words.between(item.interval) + mark
            if "all_texts" in item.detail:  # of all texts at this statistic's own bandwidth
                ends = f"all texts: {words.number(item.detail['all_texts'])} "
            table.add_row(item.title, words.number(item.value), ends, words.p_value(item.p_value))
    return table


def print_ranking(reports: Sequence[ShiftReport]) -> None:
    """Several sources of one target, best forecast first; or several targets of a translation model."""
    if not is_main_process():
        return
    console = stdout()
    if reports[0].translation is not None:
        _print_translation_ranking(reports)
        return
    table = Table(box=box.SIMPLE_HEAD)
    for column in ("", "source", "risk", "predicted gain", "predicted accuracy"):
        table.add_column(column, justify="left" if column in ("", "source", "risk") else "right")
    for place, report in enumerate(reports, 1):
        risk = report.risk
        style = RISK_STYLES[risk.level if risk else None]
        cells = ["unknown", "\u2013", "\u2013"]
        if risk is not None:
            gain, accuracy = risk.predicted_gain, risk.predicted_target_accuracy
            cells = [
                f"{risk.level} {100 * risk.probability:.0f} %",
                f"{words.points(gain.estimate)}  [dim]{words.points(gain.low)} to "
                f"{words.points(gain.high)}[/dim]",
                f"{words.percent(accuracy.estimate)}  [dim]{100 * accuracy.low:.1f} to "
                f"{100 * accuracy.high:.1f}[/dim]",
            ]
        cells[0] = f"[{style}]{cells[0]}[/{style}]"
        table.add_row(str(place), escape(report.source.name), *cells)
    target = reports[0].target
    console.print(f"[bold]Sources for {escape(target.name)}[/bold], best forecast first (ranges hold 80 %)")
    console.print(table)
    if reports[0].risk is not None:
        advice = reports[0].risk.advice
        console.print(f"[bold]Advice for {escape(reports[0].source.name)}:[/bold] {escape(advice)}.")
    for caveat in _caveats(reports):
        console.print(f"[dim]Note: {escape(caveat)}[/dim]")


def _caveats(reports: Sequence[ShiftReport]) -> list[str]:
    """Each caveat once; one that is not true of all pairs names those that it is true of."""
    pairs: dict[str, list[str]] = {}
    several = len({report.source.name for report in reports}) > 1
    for report in reports:
        for caveat in report.caveats:
            pairs.setdefault(caveat, []).append((report.source if several else report.target).name)
    return [
        caveat if len(names) == len(reports) else f"{', '.join(names)}: {caveat}"
        for caveat, names in pairs.items()
    ]


def _print_translation_ranking(reports: Sequence[ShiftReport]) -> None:
    """How a translation model does on each domain before training."""
    table = Table(box=box.SIMPLE_HEAD)
    columns = ("", "source", "target", "chrF", "loss", "source chrF", "MMD")
    for name in columns:
        table.add_column(
            name, justify="left" if name in columns[:3] else "right", no_wrap=name != "source chrF"
        )
    for place, report in enumerate(reports, 1):
        assert report.translation is not None
        ours, theirs = report.translation.source, report.translation.target
        chrf = f"{theirs.chrf['value']:.1f}  [dim]{theirs.chrf['low']:.1f} to {theirs.chrf['high']:.1f}[/dim]"
        cells = (chrf, f"{theirs.loss['value']:.2f}", f"{ours.chrf['value']:.1f}")
        names = (escape(report.source.name), escape(report.target.name))
        table.add_row(str(place), *names, *cells, f"{report.mmd['inhomogeneity']:.3f}")
    console = stdout()
    console.print("[bold]The translation model as it is now[/bold] (experimental; ranges hold 95 %)")
    console.print(table)
    for report in reports:
        console.print(f"[bold]{escape(report.target.name)}:[/bold] {escape(words.advice(report) or '')}.")
    for caveat in _caveats(reports):
        console.print(f"[dim]Note: {escape(caveat)}[/dim]")


def print_evaluation(report: dict[str, Any], name: str) -> None:
    """One data set's figures, with per-class rows where there are classes."""
    if not is_main_process():
        return
    table = Table(box=box.SIMPLE_HEAD, title=f"{escape(name)}: {report['rows']:,} rows", title_justify="left")
    table.add_column("metric")
    table.add_column("value [95 % interval]", justify="right")
    for key, label in METRIC_NAMES.items():
        if report.get(key) is not None:
            table.add_row(label, figure(report[key]))
    stdout().print(table)
    for line in words.against_baselines({"": {"": report}}):
        stdout().print(escape(line))
    if "per_class" in report:
        classes = Table(box=box.SIMPLE_HEAD)
        for column in ("class", "precision", "recall", "F1", "rows"):
            classes.add_column(column, justify="left" if column == "class" else "right")
        for label, row in report["per_class"].items():
            cells = ("-" if row[key] is None else f"{row[key]:.3f}" for key in ("precision", "recall", "f1"))
            classes.add_row(escape(str(label)), *cells, f"{row['support']:,}")
        stdout().print(classes)


def print_recipes() -> None:
    """The shipped recipes, the first comment line of each, and what an adaptation gained on real reviews."""
    from nlp_transfer.adaptation.measured import remark
    from nlp_transfer.recipe import shipped_recipes

    table = Table(box=box.SIMPLE_HEAD)
    table.add_column("recipe", no_wrap=True)
    table.add_column("does")
    for name, path in shipped_recipes().items():
        first = path.read_text(encoding="utf-8").splitlines()[0]
        family, _, kind = name.partition("/")
        measured = remark(kind.replace("-", "_")) if family == "adaptation" else ""
        does = escape(first.lstrip("# ").strip())
        table.add_row(name, f"{does} [bold]{escape(f'[{measured}]')}[/bold]" if measured else does)
    stdout().print(table)
    stdout().print(
        "[dim]In brackets: target accuracy on real review pairs, beside training on the source alone, "
        "without target labels.[/dim]\n"
        "nlp-transfer recipes show NAME > my.yaml    nlp-transfer train NAME key=value ..."
    )


def print_keys(section: str | None) -> None:
    """The keys of a section of a recipe, such as ``strategy.lora`` or ``lora``; without one those at the top.

    Raises:
        DataError: no such section.
    """
    from nlp_transfer.errors import DataError, did_you_mean
    from nlp_transfer.recipe_keys import recipe_keys

    sections = recipe_keys()
    section = next((name for name in sections if name.endswith(f".{section}")), section)
    if section is not None and section not in sections:
        raise DataError(
            f"no section {section!r} has keys",
            fix=did_you_mean(section, [name.split(".")[-1] for name in sections]),
        )
    table = Table(box=box.SIMPLE_HEAD)
    table.add_column("key", no_wrap=True)
    table.add_column("default", overflow="fold")
    table.add_column("meaning")
    for key in sections[section or "recipe"]:
        table.add_row(escape(key.name), escape(key.default), escape(key.meaning.replace("``", "`")))
    stdout().print(table)
    if section is None:
        stdout().print(f"[dim]nlp-transfer recipes keys SECTION: {', '.join(sections)}[/dim]")
