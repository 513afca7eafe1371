"""The command line: a command parses, calls one function and prints. Nothing heavy is imported here."""

from __future__ import annotations

import json
import os
import sys
import traceback
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal, NoReturn

import typer

from nlp_transfer.cli_models import LabelColumn, RunArgument, TextColumn, UsageError, export, plan, rank, tune
from nlp_transfer.cli_recipes import recipes_app
from nlp_transfer.errors import NlpTransferError

app = typer.Typer(
    name="nlp-transfer",
    help="Transfer learning for Hugging Face text models: judge the shift, fine-tune, evaluate, ship.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.add_typer(recipes_app, name="recipes")

RecipeArgument = Annotated[
    str, typer.Argument(metavar="RECIPE", help="A YAML file, or a shipped recipe's name.")
]
Overrides = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="[KEY=VALUE]...", help="Overrides, such as training.num_train_epochs=1.", show_default=False
    ),
]


@app.command()
def train(
    recipe: RecipeArgument,
    overrides: Overrides = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace an earlier run in output_dir.")
    ] = False,
    resume: Annotated[bool, typer.Option("--resume", help="Go on from the last checkpoint.")] = False,
) -> None:
    """Fine-tune: load, look at the shift, train, evaluate, write the run folder.

    Any key of the recipe can be set behind it; shift.enabled=false leaves the shift report out.
    """
    from nlp_transfer.recipe import Recipe

    loaded = Recipe.load(recipe, overrides or ())
    from nlp_transfer.processes import leave_processes
    from nlp_transfer.reporting.summary import print_run, print_shift
    from nlp_transfer.training.run import train as run

    before = partial(print_shift, rest="in metrics.json")
    print_run(run(loaded, overwrite=overwrite, resume=resume, on_shift=before))
    leave_processes()


@app.command()
def launch(
    recipe: RecipeArgument,
    overrides: Overrides = None,
    processes: Annotated[int, typer.Option(min=1, help="Over all machines together.")] = 1,
    cpu: Annotated[bool, typer.Option("--cpu", help="Run on the CPU, even where there are GPUs.")] = False,
    machines: Annotated[int, typer.Option(min=1, help="Run this command on each of them.")] = 1,
    machine_rank: Annotated[int, typer.Option(min=0, help="Of this machine; 0 is the main one.")] = 0,
    main_address: Annotated[
        str | None, typer.Option(metavar="HOST:PORT", help="Of the main machine.")
    ] = None,
    config: Annotated[
        Path | None, typer.Option(help="An accelerate configuration, such as recipes/accelerate/fsdp.yaml.")
    ] = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace an earlier run in output_dir.")
    ] = False,
    resume: Annotated[bool, typer.Option("--resume", help="Go on from the last checkpoint.")] = False,
) -> None:
    """Train on several processes or machines, through accelerate launch."""
    from nlp_transfer import launch as launcher
    from nlp_transfer.recipe import Recipe

    Recipe.load(recipe, overrides or ())
    flags = [*(["--overwrite"] if overwrite else []), *(["--resume"] if resume else [])]
    arguments = [recipe, *(overrides or ()), *flags]
    if processes == 1 and config is None:
        with launcher.one_process(arguments, cpu=cpu):
            return train(recipe, overrides, overwrite, resume)
    wanted = launcher.Processes(processes, cpu, machines, machine_rank, main_address, config)
    if code := launcher.launch(arguments, wanted):
        raise typer.Exit(code)
    return None


@app.command()
def evaluate(
    run: RunArgument,
    data: Annotated[
        list[Path],
        typer.Option(help="Labelled rows: CSV, TSV, JSONL or Parquet; repeat it to score more."),
    ],
    baseline: Annotated[
        Path | None, typer.Option(help="Another run, scored on the same rows: paired differences.")
    ] = None,
    output: Annotated[
        Path | None, typer.Option(help="Write the figures of the one data set here as JSON.")
    ] = None,
    text_column: TextColumn = None,
    label_column: LabelColumn = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the output file.")] = False,
) -> None:
    """Score a trained model on labelled rows."""
    if output is not None and len(data) > 1:
        raise typer.BadParameter("it takes one --data: call evaluate once for each", param_hint="--output")
    from nlp_transfer.predict import evaluate_file, load_model
    from nlp_transfer.reporting.summary import print_evaluation

    model = load_model(run) if len(data) > 1 else run
    other = load_model(baseline) if baseline is not None and len(data) > 1 else baseline
    columns = {"text_column": text_column, "label_column": label_column}
    for file in data:
        report = evaluate_file(model, file, baseline=other, output=output, overwrite=overwrite, **columns)
        print_evaluation(report, file.name)


@app.command()
def predict(
    run: RunArgument,
    input_file: Annotated[
        Path, typer.Option("--input", help="Rows: CSV, TSV, JSONL, Parquet or plain text.")
    ],
    output: Annotated[Path, typer.Option(help="Where to write: CSV, TSV, JSONL, Parquet or text.")],
    text_column: TextColumn = None,
    batch_rows: Annotated[int, typer.Option(min=1, help="Rows held in memory at once.")] = 4096,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the output file.")] = False,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on behind the rows of a run that was stopped.")
    ] = False,
) -> None:
    """Add label, score and probabilities (or rating, or translation) to every row, in order.

    All columns are kept; where one has a new column's name, the new one is called predicted_label and so on.
    A .txt file gets the labels or translations alone, a line each.
    """
    from nlp_transfer.console import stderr
    from nlp_transfer.predict import predict_file

    count, seconds = predict_file(
        run,
        input_file,
        output,
        text_column=text_column,
        batch_rows=batch_rows,
        overwrite=overwrite,
        resume=resume,
    )
    stderr().print(f"{count:,} rows in {seconds:.1f} s -> {output}")


@app.command()
def shift(
    recipe: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[RECIPE [KEY=VALUE]...]",
            help="A recipe, in place of --source and --target.",
            show_default=False,
        ),
    ] = None,
    source: Annotated[
        list[str] | None,
        typer.Option(help="File (or sample:NAME) of the source domain; repeat it to rank several."),
    ] = None,
    target: Annotated[
        list[str] | None,
        typer.Option(
            help="File (or sample:NAME) of the target domain; for translation several, which are ranked."
        ),
    ] = None,
    model: Annotated[
        str | None, typer.Option(help="Encoder, or translation model: hub name or folder.")
    ] = None,
    task: Annotated[
        Literal["sentiment", "translation"], typer.Option(help="translation: the files hold sentence pairs.")
    ] = "sentiment",
    source_lang: Annotated[
        str | None, typer.Option(help="Of translation: language to translate from, as in the data.")
    ] = None,
    target_lang: Annotated[
        str | None, typer.Option(help="Of translation: language to translate into.")
    ] = None,
    output: Annotated[Path | None, typer.Option(help="Folder for report.html and report.json.")] = None,
    fail_on: Annotated[
        Literal["moderate", "high"] | None,
        typer.Option(help="Exit with 3 from this risk on (of the source ranked first)."),
    ] = None,
    strategy: Annotated[
        Literal["frozen", "full", "lora"] | None,
        typer.Option(help="How the model will be trained. Default: full, or the recipe's."),
    ] = None,
    target_labels: Annotated[
        str,
        typer.Option(metavar="auto|N", help="Labelled target rows to use: all there are, or N (0: none)."),
    ] = "auto",
    max_samples: Annotated[
        int | None, typer.Option(min=2, help="Texts drawn from each domain, by seed. Default: 2000.")
    ] = None,
    permutations: Annotated[
        int | None, typer.Option(min=1, help="Of the two-sample tests. Default: 200.")
    ] = None,
    seed: Annotated[
        int | None, typer.Option(min=0, help="Of every draw. Default: 42, or the recipe's.")
    ] = None,
    text_column: TextColumn = None,
    label_column: LabelColumn = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an earlier report.")] = False,
) -> None:
    """Judge before training: how far apart two domains are, and whether the source will help."""
    if bool(recipe) == bool(source or target) or (not recipe and not (source and target)):
        raise UsageError("give --source and --target, or a RECIPE.")
    if target_labels != "auto" and not target_labels.isdigit():
        raise typer.BadParameter("expected auto or a number from 0", param_hint="--target-labels")
    if (task == "translation" and not recipe) != bool(source_lang and target_lang):
        raise UsageError("give --source-lang and --target-lang with --task translation, and only there.")
    settings: dict[str, Any] = {
        "model": model,
        "strategy": strategy,
        "target_labels": None if target_labels == "auto" else int(target_labels),
        "max_samples": max_samples,
        "permutations": permutations,
        "seed": seed,
        "needs_forecast": fail_on is not None,
        "output": output,
        "overwrite": overwrite,
    }
    loaded = None
    if recipe:
        from nlp_transfer.recipe import Recipe

        loaded = Recipe.load(recipe[0], recipe[1:])
    from nlp_transfer.reporting.summary import print_shift_reports
    from nlp_transfer.shift.command import shift_of_files, shift_of_recipe
    from nlp_transfer.shift.ranking import reaches

    if loaded is not None:
        reports = shift_of_recipe(loaded, **settings)
    else:
        settings |= {"text_column": text_column, "label_column": label_column}
        languages = (source_lang, target_lang) if source_lang and target_lang else None
        reports = shift_of_files(source or [], target or [], languages=languages, **settings)
    print_shift_reports(reports, output)
    if fail_on is not None and reaches(reports, fail_on):
        raise typer.Exit(3)


@app.command()
def doctor(
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Look at versions, devices, precision, hub, cache and folders; each problem with its cure."""
    from nlp_transfer.doctor import examine, print_findings

    findings = examine()
    if as_json:
        typer.echo(json.dumps([finding.to_dict() for finding in findings], indent=2))
    else:
        print_findings(findings)
    if any(finding.level == "problem" for finding in findings):
        raise typer.Exit(2)


@app.command()
def demo(
    output: Annotated[Path, typer.Option(help="Folder for the runs.")] = Path("runs/demo"),
) -> None:
    """Shift, then three ways of fine-tuning, on the built-in sample and a real encoder."""
    from nlp_transfer.demo import run_demo

    run_demo(output)


app.command()(rank)
app.command()(plan)
app.command()(tune)
app.command()(export)


def _version(value: bool) -> None:
    if value:
        from nlp_transfer import __version__

        typer.echo(__version__)
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print it.")
    ] = False,
) -> None:
    pass


def main(arguments: list[str] | None = None) -> NoReturn:
    """Run a command; exit with 0 done, 1 our bug, 2 bad input, 3 threshold reached, 130 interrupted.

    Unless the environment decides it, OpenMP threads (of libgomp) that wait go to sleep after 2,000 turns,
    not 300,000, and so leave the cores to other processes.
    """
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", "2000")
    sys.exit(run_command(lambda: app(arguments, prog_name="nlp-transfer", standalone_mode=False)))


def run_command(command: Callable[[], Any]) -> int:
    """Call a command and turn what it raises into an exit code; bad input becomes one message."""
    try:
        outcome = command()
    except NlpTransferError as error:
        _fail(str(error), error.exit_code)
        return error.exit_code
    except typer.Exit as stop:
        return stop.exit_code
    except UsageError as error:
        return _usage(error)
    except (KeyboardInterrupt, typer.Abort):
        _fail("interrupted", 130)
        return 130
    except SystemExit as stop:  # Rich and typer leave so when the reader of a pipe has seen enough
        if isinstance(stop.__context__, BrokenPipeError):
            return 0
        raise
    except Exception:
        _fail(
            "this is a bug in nlp_transfer: please report it with the lines above", 1, traceback.format_exc()
        )
        return 1
    if outcome == 130:  # typer has caught the KeyboardInterrupt
        _fail("interrupted", 130)
    return outcome if isinstance(outcome, int) else 0


def _usage(error: Any) -> int:
    """Say what is wrong with the command line; without any argument, show the help."""
    command = error.ctx.command_path if error.ctx else "nlp-transfer"
    if type(error).__name__ == "NoArgsIsHelpError":
        typer.echo(error.format_message(), err=True)
    else:
        lines = [error.format_message().replace("Input should be", "expected").rstrip(".")]
        lines[0] = lines[0].replace("Value error, ", "")
        if isinstance(error.__cause__, ValueError) and hasattr(error.__cause__, "errors"):
            lines.append(f"  found:    {error.__cause__.errors()[0]['input']}")
        _fail("\n".join([*lines, f"  fix:      see {command} --help"]))
    return 2


def _fail(message: str, exit_code: int = 2, trace: str | None = None) -> None:
    """Say it here, or let the launcher of this process say it once for all of them."""
    from nlp_transfer.console import fail
    from nlp_transfer.processes import report_failure

    if not report_failure(message, exit_code, trace):
        if trace is not None:
            sys.stderr.write(trace)
        fail(message)


if __name__ == "__main__":
    main()
