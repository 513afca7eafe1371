"""Every adaptation with a frozen form on one pair: the cells that ``adaptation_amazon.py`` collects.

Embeddings come from the package's cache; heads are the frozen strategy's, with C = 0.01, which its
cross-validation chooses on every development source. Without target labels the methods see the texts of the
target's pool; with 100 labels they see those too, and both domains' labelled rows are trained on together.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from adaptation_data import Pair, name_of, split

FEW, C = 100, 0.01
COMBINED = ("coral", "label_propagation")


def cell(work: Path, source: str, target: str, seed: int) -> dict[str, Any]:
    """Which test rows each method gets right, and its processor seconds; a finished cell is read from disk.

    Returns:
        {"unlabelled": {method: {"accuracy", "seconds", "right"}}, "few": the same, "advice", "risk"}; the
        references are ``source-only``, ``target-trained`` and with few labels ``target-only``.
    """
    record = work / f"frozen.{source}.{target}.{seed}.json"
    if record.exists():
        return json.loads(record.read_text("utf-8"))
    sides = domain(source), domain(target)
    pair = split(source, target, (len(sides[0][1]), len(sides[1][1])), seed)
    found = {"source": source, "target": target, "seed": seed} | study(pair, *sides)
    record.write_text(json.dumps(found), "utf-8")
    plain = found["unlabelled"]["source-only"]["accuracy"]
    gains = {key: f"{100 * (entry['accuracy'] - plain):+.1f}" for key, entry in found["unlabelled"].items()}
    print(f"{source:12} {target:12} {plain:.3f}", *(f"{k} {v}" for k, v in gains.items()), flush=True)
    return found


@lru_cache(maxsize=8)
def domain(name: str) -> tuple[np.ndarray, np.ndarray]:
    """Embeddings [n, d] of length one, and labels [n]."""
    import risk_data

    name = name_of(name)
    found = risk_data.load([name])[name]
    return found.x, found.y


def study(pair: Pair, source: tuple[np.ndarray, np.ndarray], target: tuple[np.ndarray, np.ndarray]) -> dict:
    """All methods on one pair, without and with target labels."""
    from nlp_transfer.adaptation import ADAPTATIONS, DomainFeatures

    rows, labels = source[0][pair.source_rows], source[1][pair.source_rows]
    pool, of_pool = target[0][pair.pool], target[1][pair.pool]
    test, truth = target[0][pair.test], target[1][pair.test]
    none = (pool[:0], of_pool[:0])
    out: dict[str, Any] = {"unlabelled": {}, "few": {}}
    for mode, (few, of_few) in {"unlabelled": none, "few": (pool[:FEW], of_pool[:FEW])}.items():
        data = DomainFeatures(rows, labels, pool, 2, few, of_few, pair.seed)
        fits: dict[str, Callable[[], np.ndarray]] = {"source-only": lambda data=data: plain(data, test)}
        if mode == "unlabelled":
            fits["target-trained"] = lambda: head(pool, of_pool).scores(test)
        else:
            fits["target-only"] = lambda few=few, of_few=of_few: head(few, of_few).scores(test)
        methods = {
            name: [method(options())]
            for name, (method, options) in ADAPTATIONS.items()
            if "frozen" in method.strategies and (len(few) or not method.needs_target_labels)
        }
        methods[" + ".join(COMBINED)] = [methods[name][0] for name in COMBINED]
        for name, chosen in methods.items():
            fits[name] = lambda data=data, chosen=chosen: adapted(chosen, data, test)
        for name, fit in fits.items():
            started = time.process_time()
            right = fit().argmax(1) == truth
            out[mode][name] = {
                "accuracy": float(right.mean()),
                "seconds": time.process_time() - started,
                "right": "".join("01"[int(value)] for value in right),
            }
    return out | advised(rows, labels, pool, of_pool)


def head(rows: np.ndarray, labels: np.ndarray, weights: np.ndarray | None = None, **settings: Any) -> Any:
    """The frozen strategy's head."""
    from nlp_transfer.strategies import STRATEGIES

    strategy, options = STRATEGIES["frozen"]
    return strategy(options(C=C)).fit(rows, labels, classes=2, weights=weights, **settings)


def plain(data: Any, test: np.ndarray) -> np.ndarray:
    """Scores of a head on all labelled rows."""
    rows = np.concatenate([data.source, data.labelled])
    return head(rows, np.concatenate([data.source_labels, data.labels])).scores(test)


def adapted(methods: list[Any], data: Any, test: np.ndarray) -> np.ndarray:
    """Scores of what the methods, maps first, make of the labelled rows; joint with target labels."""
    weights, components = np.ones(len(data.source) + len(data.labels)), False
    for method in methods:
        if method.stage == "feature":
            found = method.align(data)
            components = components or found.components
            target, labelled = found.target(data.target), found.target(data.labelled)
            data = replace(data, source=found.source(data.source), target=target, labelled=labelled)
            test = found.target(test)
        elif method.stage == "instance":
            found = method.weigh(data)
            of_target = np.ones(len(data.labels)) if found.target is None else found.target
            weights = np.concatenate([found.source, of_target])
    rows = np.concatenate([data.source, data.labelled])
    labels = np.concatenate([data.source_labels, data.labels])

    def fit(further: np.ndarray, classes: np.ndarray, sure: np.ndarray) -> Any:
        together = np.concatenate([rows, further]), np.concatenate([labels, classes])
        weighed = np.concatenate([weights / weights.mean(), sure])
        return head(*together, weighed, common_scale=components)

    if methods[-1].stage == "labels":
        return methods[-1].learn(data, fit)[0].scores(test)
    return head(rows, labels, weights / weights.mean(), common_scale=components).scores(test)


def advised(rows: np.ndarray, labels: np.ndarray, pool: np.ndarray, of_pool: np.ndarray) -> dict[str, Any]:
    """What the shift report says about the pair with the few labels."""
    from nlp_transfer.shift.probe import PreparedPair
    from nlp_transfer.shift.risk import assess

    probe = PreparedPair(rows, labels, pool).probe(pool[:FEW], of_pool[:FEW])
    risk = assess(probe)
    return {"advice": risk.advice, "risk": risk.probability}
