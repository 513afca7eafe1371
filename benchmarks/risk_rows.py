"""Collect the rows of the risk study: for each pair, amount of labels and draw, the probe and the outcome.

The outcome is what a user gets with a frozen encoder: logistic regression on the embeddings, trained on
the drawn target labels alone or together with up to 1,500 source rows, scored on the target's test rows.
Its penalty is chosen by cross-validated log loss: on the labels for the former, on the source for the
latter. The probe sees the draw's labels, the texts of the target's pool and the source, never a test row.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import risk_data
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss
from sklearn.model_selection import StratifiedKFold

from nlp_transfer.numeric.mmd import mmd_test
from nlp_transfer.shift.probe import PreparedPair
from nlp_transfer.shift.risk import flatten

C_GRID = (0.3, 1.0, 3.0, 10.0, 30.0, 100.0)
LEVELS = (20, 50, 100, 300)
ALL = 100_000
_ALONE: dict[tuple[str, bytes], float] = {}


@lru_cache(maxsize=1)
def data(names: tuple[str, ...]) -> dict[str, risk_data.DataSet]:
    return risk_data.load(list(names))


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


def alone(target: risk_data.DataSet, rows: np.ndarray) -> float:
    """Test accuracy of training on these rows of the pool; kept, since every source is held against it."""
    key = (target.name, rows.tobytes())
    if key not in _ALONE:
        x, y, test = target.x[rows], target.y[rows], slice(target.pool, None)
        _ALONE[key] = fit(x, y, chosen_c(x, y)).score(target.x[test], target.y[test])
    return _ALONE[key]


def pair_rows(
    source: tuple[np.ndarray, np.ndarray],
    target: risk_data.DataSet,
    draws: Sequence[int],
    common: dict[str, Any],
    whole_pool: bool = False,
) -> list[dict[str, Any]]:
    """One row without labels, one for each draw and amount of labels; the whole pool in the first draw."""
    x, y = source
    test = slice(target.pool, None)
    c = chosen_c(x, y)
    base = fit(x, y, c)
    unlabelled = target.x[: target.pool]
    pair = PreparedPair(x, y, unlabelled)
    mmd = mmd_test(x[:600], unlabelled[:600], permutations=1)
    common = {**common, "zero_shot": base.score(target.x[test], target.y[test]), "mmd": float(mmd.value)}
    out = [{**common, "level": 0, "draw": 0, "probe": flatten(pair.probe())}]
    for draw in draws:
        order = target.draw(draw)
        for level in (*LEVELS, ALL) if whole_pool and draw == draws[0] else LEVELS:
            rows = order[:level]
            if len(np.unique(target.y[rows])) < 2:
                continue
            both = fit(np.vstack([x, target.x[rows]]), np.concatenate([y, target.y[rows]]), c, base)
            out.append(
                {
                    **common,
                    "level": level,
                    "draw": draw,
                    "alone": alone(target, rows),
                    "both": both.score(target.x[test], target.y[test]),
                    "probe": flatten(pair.probe(target.x[rows], target.y[rows])),
                }
            )
    return out


def _job(names: tuple[str, ...], source: str, target: str) -> list[dict[str, Any]]:
    sets = data(names)
    x, y = sets[source].x[: risk_data.SOURCE_ROWS], sets[source].y[: risk_data.SOURCE_ROWS]
    whole_pool = zlib.crc32(f"{source} {target} real".encode()) % 3 == 0
    common = {"source": source, "target": target}
    return pair_rows((x, y), sets[target], range(risk_data.DRAWS), common, whole_pool)


def collect(path: Path, names: tuple[str, ...], jobs: int) -> None:
    """Add the rows of all pairs that are not in the file yet."""
    done = {(row["source"], row["target"]) for row in read(path)}
    todo = [pair for pair in risk_data.pairs() if pair not in done]
    if not todo:
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    data(names)  # embedded once, before the workers fork
    with ProcessPoolExecutor(jobs) as pool, path.open("a", encoding="utf-8") as file:
        futures = [pool.submit(_job, names, *pair) for pair in todo]
        for number, future in enumerate(futures):
            file.writelines(json.dumps(row) + "\n" for row in future.result())
            file.flush()
            if number % 20 == 0:
                print(f"{number + 1} of {len(todo)} pairs", flush=True)


def read(path: Path) -> Iterator[dict[str, Any]]:
    """The collected rows."""
    if path.exists():
        with path.open(encoding="utf-8") as lines:
            yield from map(json.loads, lines)
