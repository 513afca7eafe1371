"""Rich tables for the terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from rich import box
from rich.markup import escape
from rich.table import Table

from nlp_transfer.console import is_main_process, stdout

if TYPE_CHECKING:
    from nlp_transfer.shift.report import ShiftReport
    from nlp_transfer.training.run import RunResult

METRIC_NAMES = {
    "accuracy": "accuracy",
    "macro_f1": "macro F1",
    "matthews_correlation": "Matthews",
    "expected_calibration_error": "calibration error",
    "loss": "loss",
    "mse": "mean squared error",
    "mae": "mean absolute error",
    "pearson": "Pearson",
    "spearman": "Spearman",
}


def figure(metric: dict[str, Any] | None) -> str:
    """A value with its 95 % interval."""
    if metric is None or metric["value"] is None:
        return "-"
    text = f"{metric['value']:.4f}"
    return text if metric.get("low") is None else f"{text} [{metric['low']:.3f}, {metric['high']:.3f}]"


def human(number: int) -> str:
    """A count with thousands separators, shortened from a million on."""
    return f"{number / 1e6:.1f} M" if number >= 1_000_000 else f"{number:,}"


def print_run(result: RunResult) -> None:
    """The summary at the end of a run: metrics, cost, and where things are."""
    if not is_main_process():
        return
    if result.shift is not None:
        print_shift(result.shift)
    domains = result.metrics["domains"]
    table = Table(box=box.SIMPLE_HEAD)
    table.add_column("metric")
    columns = [(role, split) for role in ("target", "source") for split in ("test", "validation")]
    columns = [(role, split) for role, split in columns if split in domains.get(role, {})]
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
    cost = result.metrics["cost"]
    console.print(
        f"training {cost['training_seconds']:.1f} s of {cost['seconds']:.1f} s   "
        f"peak memory {cost['peak_memory_mib']:,.0f} MiB"
    )
    console.print(f"trained {human(cost['trainable_parameters'])} of {human(cost['total_parameters'])} parameters")
    console.print(f"model, metrics.json and model card in [bold]{escape(str(result.output_dir))}[/bold]")


def print_shift(report: ShiftReport) -> None:
    """The shift summary."""
    if not is_main_process():
        return
    mmd = report.mmd
    console = stdout()
    table = Table(box=box.SIMPLE_HEAD, title="domain shift before training", title_justify="left", show_header=False)
    table.add_column()
    table.add_column()
    table.add_row("source", f"{escape(report.source.name)} ({report.source.used:,} of {report.source.texts:,} texts)")
    table.add_row("target", f"{escape(report.target.name)} ({report.target.used:,} of {report.target.texts:,} texts)")
    table.add_row("MMD\u00b2 (unbiased)", f"{mmd['value']:.5f}")
    table.add_row("p-value", f"{mmd['p_value']:.4f} ({mmd['method']}, {mmd['permutations']} permutations)")
    table.add_row("effect size", f"{mmd['effect_size']:.1f} standard deviations of the null")
    console.print(table)
    for caveat in report.caveats:
        console.print(f"[dim]{escape(caveat)}[/dim]")
    console.print(f"[dim]{escape(report.model)}, {report.seconds:.1f} s[/dim]")


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
    if "per_class" in report:
        classes = Table(box=box.SIMPLE_HEAD)
        for column in ("class", "precision", "recall", "F1", "rows"):
            classes.add_column(column, justify="left" if column == "class" else "right")
        for label, row in report["per_class"].items():
            cells = ("-" if row[key] is None else f"{row[key]:.3f}" for key in ("precision", "recall", "f1"))
            classes.add_row(escape(str(label)), *cells, f"{row['support']:,}")
        stdout().print(classes)


def print_recipes() -> None:
    """The shipped recipes and the first comment line of each."""
    from nlp_transfer.recipe import shipped_recipes

    table = Table(box=box.SIMPLE_HEAD)
    table.add_column("recipe", no_wrap=True)
    table.add_column("does")
    for name, path in shipped_recipes().items():
        first = path.read_text(encoding="utf-8").splitlines()[0]
        table.add_row(name, escape(first.lstrip("# ").strip()))
    stdout().print(table)
    stdout().print("[dim]nlp-transfer recipes show NAME > my.yaml    nlp-transfer train NAME key=value ...[/dim]")
