"""Hyper-parameter search of the frozen strategy: heads on cached embeddings, without a Trainer."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from nlp_transfer.models.embed import Embedder
from nlp_transfer.strategies.frozen import Frozen, FrozenOptions
from nlp_transfer.tasks import SentimentTask
from nlp_transfer.training.phases import Phase, Setup, plan_phases

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray
    from optuna import Study
    from optuna.trial import Trial

    from nlp_transfer.strategies.frozen import HeadWeights
    from nlp_transfer.training.search import Space

FOLDS = 5


def optimize(setup: Setup, space: Space, study: Study, trials: int) -> None:
    """Try values; a trial is the mean score of heads on target rows that they did not see.

    Those are the target's validation rows where it has some, else its training rows in five folds, after each
    of which a trial may be cut short.
    """
    from optuna import TrialPruned

    heads = _Heads(setup)
    sign = 1.0 if setup.task.best_metric.greater_is_better else -1.0

    def objective(trial: Trial) -> float:
        options = space.recipe_with(space.suggest(trial)).strategy
        assert isinstance(options, FrozenOptions)
        scores: list[float] = []
        for number, found in enumerate(heads.scores(options)):
            scores += found.tolist()
            trial.report(sign * float(np.mean(scores)), number)
            if trial.should_prune():
                raise TrialPruned
        return sign * float(np.mean(scores))

    study.optimize(objective, n_trials=trials)


class _Heads:
    """Fits heads as a run does, on the rows of each phase."""

    def __init__(self, setup: Setup) -> None:
        assert isinstance(setup.task, SentimentTask)
        self.setup, self.task = setup, setup.task
        self.plan = plan_phases(setup.recipe, setup.domains)
        self.known: dict[tuple[Any, bool], list[NDArray]] = {}
        self.labels = [self.task.label_array(phase.rows, name=phase.name) for phase in self.plan]
        self.validation = setup.domains["target"].validation

    def scores(self, options: FrozenOptions) -> Iterator[NDArray]:
        """Figures of held-out target rows, fold by fold; more is better."""
        features = self._features(options)
        strategy, last = Frozen(options), len(self.plan) - 1
        start: HeadWeights | None = None
        rows, labels = features[last], self.labels[last]
        if last and options.head == "mlp":  # it takes no other head's scores: both domains at once
            rows, labels = np.concatenate(features[: last + 1]), np.concatenate(self.labels)
        elif last:
            start = self._fit(strategy, features[0], self.labels[0])
        if self.validation is not None:
            head = self._fit(strategy, rows, labels, start)
            truth = self.task.label_array(self.validation, name="target.validation")
            yield self.task.row_scores(head.scores(features[-1]), truth)
            return
        count = len(self.setup.domains["target"].train or ())
        offset = len(labels) - count  # the target's rows come last
        for train, test in self._folds(labels[offset:]):
            used = np.concatenate([np.arange(offset), offset + train])
            head = self._fit(strategy, rows[used], labels[used], start)
            yield self.task.row_scores(head.scores(rows[offset + test]), labels[offset + test])

    def _fit(
        self, strategy: Frozen, rows: NDArray, labels: NDArray, start: HeadWeights | None = None
    ) -> HeadWeights:
        classes = self.task.num_labels if self.task.objective == "classification" else None
        weights: Any = self.task.class_weights
        return strategy.fit(
            rows, labels, classes=classes, class_weights=weights, start=start, seed=self.setup.recipe.seed
        )

    def _folds(self, labels: NDArray) -> Iterator[tuple[NDArray, NDArray]]:
        from sklearn.model_selection import KFold, StratifiedKFold

        regression = self.task.objective == "regression"
        rarest = len(labels) if regression else int(np.bincount(labels)[np.unique(labels)].min())
        kind = KFold if regression or rarest < 2 else StratifiedKFold
        folds = min(FOLDS, len(labels) if kind is KFold else rarest)
        yield from kind(folds, shuffle=True, random_state=self.setup.recipe.seed).split(labels, labels)

    def _features(self, options: FrozenOptions) -> list[NDArray]:
        """Embeddings of every phase's rows, and of the validation rows; from memory, or from the cache."""
        key = options.layer, options.normalize
        if key not in self.known:
            embedder = Embedder.load(
                self.setup.pretrained,
                self.setup.recipe.model,
                layer=options.layer,
                normalize=options.normalize,
            )
            phases: list[Phase] = self.plan
            tables = [phase.rows for phase in phases]
            tables += [self.validation] if self.validation is not None else []
            self.known[key] = [np.asarray(embedder.embed(rows).features) for rows in tables]
        return self.known[key]
