"""Collect the rows of the risk study in two files: outcomes, and what the probe sees.

The outcome is what a user gets with a frozen encoder: logistic regression on the embeddings, trained on
the drawn target labels alone or together with up to 1,500 source rows, scored on the target's test rows.
Its penalty is chosen by cross-validated log loss: on the labels for the former, on the source for the
latter. The probe sees the draw's labels, the texts of the target's pool and the source, never a test row.

Finished pairs stay in the files, so that a run can be stopped and resumed, and a change of the probe does
not ask for new outcomes. Fitting needs the files alone.

    NLP_TRANSFER_DATA=... python benchmarks/risk_rows.py outcomes|probes [--jobs 2]
"""

from __future__ import annotations

import argparse
import json
import zlib
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from functools import cache, lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import risk_data
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss
from sklearn.model_selection import StratifiedKFold

from nlp_transfer.models.cache import cache_root
from nlp_transfer.numeric.mmd import mmd_test
from nlp_transfer.shift.probe import PreparedPair
from nlp_transfer.shift.risk import flatten

C_GRID = (0.3, 1.0, 3.0, 10.0, 30.0, 100.0)
LEVELS = (20, 50, 100, 300)
ALL = 500
"""What the whole pool (398 to 600 rows) is called: in the first draw, for a third of the pairs."""
_ALONE: dict[tuple[str, bytes], tuple[float, float]] = {}


@lru_cache(maxsize=1)
def data() -> dict[str, risk_data.DataSet]:
    return risk_data.load()


def fit(
    x: np.ndarray, y: np.ndarray, c: float, start: LogisticRegression | None = None
) -> LogisticRegression:
    """Logistic regression, from the weights of ``start`` where given."""
    model = LogisticRegression(C=c, max_iter=500, warm_start=True)
    if start is not None:
        model.coef_, model.intercept_, model.classes_ = (
            start.coef_.copy(),
            start.intercept_.copy(),
            start.classes_,
        )
    return model.fit(x, y)


def chosen_c(x: np.ndarray, y: np.ndarray) -> float:
    """The inverse penalty with the least 5-fold log loss; 10 where a class has fewer than two rows."""
    folds = min(5, int(np.bincount(y).min()))
    if folds < 2:
        return 10.0
    losses = np.zeros(len(C_GRID))
    for train, test in StratifiedKFold(folds, shuffle=True, random_state=0).split(x, y):
        for index, c in enumerate(C_GRID):
            losses[index] += log_loss(y[test], fit(x[train], y[train], c).predict_proba(x[test]))
    return C_GRID[int(losses.argmin())]


def score(model: LogisticRegression, target: risk_data.DataSet) -> tuple[float, float]:
    """Accuracy on all test rows, and on every second of them: the other half shows the test rows' noise."""
    test = slice(target.pool, None)
    right = model.predict(target.x[test]) == target.y[test]
    return float(right.mean()), float(right[::2].mean())


def alone(target: risk_data.DataSet, rows: np.ndarray) -> tuple[float, float]:
    """Score of training on these rows of the pool; kept, since every source is held against it."""
    key = (target.name, rows.tobytes())
    if key not in _ALONE:
        x, y = target.x[rows], target.y[rows]
        _ALONE[key] = score(fit(x, y, chosen_c(x, y)), target)
    return _ALONE[key]


@lru_cache(maxsize=1)
def source(name: str) -> tuple[np.ndarray, np.ndarray]:
    """The rows that a data set gives as a source."""
    chosen = data()[name]
    return chosen.x[: risk_data.SOURCE_ROWS], chosen.y[: risk_data.SOURCE_ROWS]


@cache
def source_model(name: str) -> tuple[float, LogisticRegression]:
    """Inverse penalty and classifier of a source."""
    x, y = source(name)
    c = chosen_c(x, y)
    return c, fit(x, y, c)


def draws(source_name: str, target: risk_data.DataSet, count: int) -> Iterator[tuple[int, int, np.ndarray]]:
    """Draw, amount of labels and rows of the pool, for each amount that the target has in both classes."""
    whole = zlib.crc32(f"{source_name} {target.name} real".encode()) % 3 == 0
    for draw in range(count):
        order = target.draw(draw)
        for level in (*LEVELS, ALL) if whole and draw == 0 else LEVELS:
            rows = order if level == ALL else order[:level]
            if len(np.unique(target.y[rows])) == 2:
                yield draw, level, rows


def outcomes(source_name: str, target_name: str) -> list[dict[str, Any]]:
    """Accuracy of the source alone; scores with and without the source at each draw and amount of labels."""
    (x, y), (c, base), target = source(source_name), source_model(source_name), data()[target_name]
    out: list[dict[str, Any]] = [{"level": 0, "draw": 0, "zero_shot": score(base, target)[0]}]
    for draw, level, rows in draws(source_name, target, risk_data.OUTCOME_DRAWS):
        both = fit(np.vstack([x, target.x[rows]]), np.concatenate([y, target.y[rows]]), c, base)
        out.append({"level": level, "draw": draw, "alone": alone(target, rows), "both": score(both, target)})
    return out


def probes(source_name: str, target_name: str) -> list[dict[str, Any]]:
    """One probe without labels, and one for each draw and amount of labels."""
    (x, y), target = source(source_name), data()[target_name]
    unlabelled = target.x[: target.pool]
    pair = PreparedPair(x, y, unlabelled)
    mmd = float(mmd_test(x[:600], unlabelled[:600], permutations=1).value)
    out = [{"level": 0, "draw": 0, "mmd": mmd, "probe": flatten(pair.probe())}]
    for draw, level, rows in draws(source_name, target, risk_data.DRAWS):
        probe = flatten(pair.probe(target.x[rows], target.y[rows]))
        out.append({"level": level, "draw": draw, "mmd": mmd, "probe": probe})
    return out


COLLECTED: dict[str, Callable[[str, str], list[dict[str, Any]]]] = {"outcomes": outcomes, "probes": probes}


def file_of(kind: str) -> Path:
    """Where the rows are kept: beside the cache of embeddings."""
    return cache_root().parent / f"risk_{kind}.jsonl"


def collect(kind: str, jobs: int) -> None:
    """Add the rows of all pairs that are not in the file yet."""
    path = file_of(kind)
    done = {(row["source"], row["target"]) for row in _lines(path)}
    todo = [pair for pair in risk_data.pairs() if pair not in done]
    if not todo:
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    data()  # embedded once, before the workers fork
    with ProcessPoolExecutor(jobs) as pool, path.open("a", encoding="utf-8") as file:
        futures = [pool.submit(COLLECTED[kind], *pair) for pair in todo]
        for number, (pair, future) in enumerate(zip(todo, futures, strict=True), 1):
            rows = [{"source": pair[0], "target": pair[1], **row} for row in future.result()]
            file.writelines(json.dumps(row) + "\n" for row in rows)
            file.flush()
            if number % 20 == 0:
                print(f"{kind}: {number} of {len(todo)} pairs", flush=True)


def read() -> list[dict[str, Any]]:
    """Each probe with its draw's outcome and, under ``draws``, the gains and accuracies of all draws."""
    measured: dict[tuple[str, str, int], list[dict[str, Any]]] = {}
    for row in _lines(file_of("outcomes")):
        measured.setdefault((row["source"], row["target"], row["level"]), []).append(row)
    out = []
    for row in _lines(file_of("probes")):
        found = measured.get((row["source"], row["target"], row["level"]))
        if found:
            own = next(item for item in found if item["draw"] == row["draw"])
            out.append({**own, **row, "draws": found})
    return out


def _lines(path: Path) -> Iterator[dict[str, Any]]:
    if path.exists():
        with path.open(encoding="utf-8") as lines:
            yield from map(json.loads, lines)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("kind", choices=sorted(COLLECTED))
    parser.add_argument("--jobs", type=int, default=2, help="processes")
    arguments = parser.parse_args()
    collect(arguments.kind, arguments.jobs)


if __name__ == "__main__":
    main()
