"""Feature extraction: a frozen encoder, and a head fitted on its embeddings.

Each text goes through the encoder exactly once (``models/embed.py`` keeps the result on disk). The head is
fitted by scikit-learn; scaling and feature selection are folded into its weights, so that the saved model is
encoder + pooling + plain linear layers and predicts from text like every other.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from pydantic import Field, model_validator

from nlp_transfer.options import Options
from nlp_transfer.strategies.base import Strategy
from nlp_transfer.strategies.layers import freeze_half

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from transformers import PreTrainedModel

C_GRID = (0.0003, 0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0)
"""Inverse regularisation strengths tried by cross-validation, on standardised features."""


class FrozenOptions(Options):
    """The encoder stays as it is; only a head is fitted on its embeddings."""

    kind: Literal["frozen"] = "frozen"
    head: Literal["linear", "mlp"] = "linear"
    """linear: logistic regression (ridge regression for ratings); mlp: one hidden layer."""
    layer: int | Literal["last", "mean"] = "last"
    """Which hidden layer is pooled: an index (0 = embeddings, -1 = last), or the mean over all layers."""
    normalize: bool = False
    """Scale each embedding to length one before the head."""
    C: float | None = Field(default=None, gt=0)
    """Inverse regularisation strength of the linear head; null: picked by 5-fold cross-validation."""
    select: int | None = Field(default=None, ge=1)
    """Keep the n features most related to the labels (ANOVA F value); null: keep all."""
    hidden: int = Field(default=128, ge=1)
    """Hidden units of the mlp head."""

    @model_validator(mode="after")
    def _fits(self) -> FrozenOptions:
        if self.head == "mlp" and self.C is not None:
            raise ValueError("C belongs to the linear head: leave it out with head: mlp")
        return self


@dataclass(frozen=True)
class HeadWeights:
    """A fitted head as plain layers.

    Attributes:
        layers: (weight [out, in], bias [out]) pairs, float64, with ReLU between them; the first takes raw
            embeddings.
        C: the inverse regularisation strength used, or None.
        features: number of embedding dimensions that the head uses.
    """

    layers: tuple[tuple[NDArray[np.float64], NDArray[np.float64]], ...]
    C: float | None
    features: int

    def scores(self, features: NDArray) -> NDArray[np.float64]:
        """Logits (or ratings) [n, out] of embeddings [n, d]."""
        import numpy as np

        out = np.asarray(features, dtype=np.float64)
        for index, (weight, bias) in enumerate(self.layers):
            out = (np.maximum(out, 0) if index else out) @ weight.T + bias
        return out


class Frozen(Strategy[FrozenOptions]):
    """Fit a head on frozen embeddings."""

    summary = "frozen encoder, embeddings computed once and cached, logistic regression or MLP head"
    extracts = True
    default_learning_rate = 5e-4

    def prepare(self, model: PreTrainedModel) -> PreTrainedModel:
        """Freeze the encoder of an encoder-decoder; the engine then trains the decoder on its cached outputs.

        Raises:
            ModelError: not an encoder-decoder.
        """
        freeze_half(model, "encoder")
        return model

    def fit(
        self,
        features: NDArray,
        labels: NDArray,
        *,
        classes: int | None,
        class_weights: NDArray | None = None,
        weights: NDArray | None = None,
        start: HeadWeights | None = None,
        common_scale: bool = False,
        seed: int = 42,
    ) -> HeadWeights:
        """Fit the head.

        Args:
            features: embeddings [n, d].
            labels: class numbers 0..classes-1, or ratings, [n].
            classes: number of classes; None fits ratings by squared error.
            class_weights: weight per class [classes].
            weights: weight per row [n].
            start: a head fitted on the source. Its scores join the features of the linear head (the PRED
                baseline of Daumé 2007, section 3), so the fit decides how much of the source to keep.
            common_scale: bring all columns to one scale together instead of each to its own, where their
                sizes mean something, as those of principal components do.
            seed: of the folds and of the MLP's weights.

        Cost: O(n d) an iteration; a few seconds for 2,000 x 384 with cross-validation.
        """
        import numpy as np

        x = np.asarray(features, dtype=np.float64)
        sample_weights = np.ones(len(x)) if weights is None else np.asarray(weights, dtype=np.float64)
        if classes is not None and class_weights is not None:
            sample_weights = sample_weights * np.asarray(class_weights)[labels]
        keep = self._select(x, labels, classes)
        mean, scale = x[:, keep].mean(0), x[:, keep].std(0)
        if common_scale:
            scale = np.full_like(scale, np.sqrt(np.mean(scale**2)))
        scale = np.where(scale > 1e-9, scale, 1.0)
        z = (x[:, keep] - mean) / scale
        if self.options.head == "mlp":
            layers, chosen = _fit_mlp(z, labels, classes, sample_weights, self.options.hidden, seed), None
        else:
            extra = None if start is None else start.scores(x)
            layers, chosen = _fit_linear(z, extra, labels, classes, sample_weights, self.options.C, seed)
        (first, bias), rest = layers[0], layers[1:]
        folded = np.zeros((len(first), x.shape[1]))
        folded[:, keep] = first[:, : z.shape[1]] / scale
        bias = bias - (first[:, : z.shape[1]] / scale) @ mean
        if first.shape[1] > z.shape[1] and start is not None:
            on_source = first[:, z.shape[1] :]
            weight, offset = start.layers[0]
            folded, bias = folded + on_source @ weight, bias + on_source @ offset
        return HeadWeights(((folded, bias), *rest), chosen, len(keep))

    def _select(self, x: NDArray, labels: NDArray, classes: int | None) -> NDArray[np.intp]:
        import numpy as np
        from sklearn.feature_selection import f_classif, f_regression

        if self.options.select is None or self.options.select >= x.shape[1]:
            return np.arange(x.shape[1])
        with np.errstate(divide="ignore", invalid="ignore"):
            relevance, _ = (f_regression if classes is None else f_classif)(x, labels)
        return np.sort(np.argsort(-np.nan_to_num(relevance, nan=-1.0))[: self.options.select])


Layers = list[tuple["NDArray[np.float64]", "NDArray[np.float64]"]]


def _fit_linear(
    z: NDArray,
    extra: NDArray | None,
    labels: NDArray,
    classes: int | None,
    weights: NDArray,
    c: float | None,
    seed: int,
) -> tuple[Layers, float | None]:
    """Logistic or ridge regression on [z, extra]; C by cross-validated log loss where it is not given."""
    import numpy as np
    from sklearn.linear_model import LogisticRegression, Ridge

    if extra is not None:
        z = np.hstack([z, extra])

    def model(strength: float):
        if classes is None:
            return Ridge(alpha=1.0 / strength)
        return LogisticRegression(C=strength, max_iter=1000)

    chosen = c if c is not None else _choose_c(model, z, labels, classes, weights, seed)
    fitted = model(chosen).fit(z, labels, sample_weight=weights)
    weight, bias = np.atleast_2d(fitted.coef_), np.atleast_1d(fitted.intercept_)
    return [_all_classes(weight, bias, getattr(fitted, "classes_", None), classes)], chosen


def _choose_c(model, z: NDArray, labels: NDArray, classes: int | None, weights: NDArray, seed: int) -> float:
    """The C of ``C_GRID`` with the lowest cross-validated loss; 0.1 where there are too few rows to fold."""
    import numpy as np
    from sklearn.metrics import log_loss, mean_squared_error
    from sklearn.model_selection import KFold, StratifiedKFold

    smallest = len(labels) if classes is None else int(np.bincount(labels)[np.unique(labels)].min())
    folds = min(5, smallest)
    if folds < 2:
        return 0.1
    splitter = (KFold if classes is None else StratifiedKFold)(folds, shuffle=True, random_state=seed)
    losses = np.zeros(len(C_GRID))
    present = np.unique(labels)
    for train, test in splitter.split(z, labels):
        for index, strength in enumerate(C_GRID):
            fitted = model(strength).fit(z[train], labels[train], sample_weight=weights[train])
            if classes is None:
                losses[index] += mean_squared_error(
                    labels[test], fitted.predict(z[test]), sample_weight=weights[test]
                )
            else:
                probabilities = fitted.predict_proba(z[test])
                losses[index] += log_loss(
                    labels[test], probabilities, labels=present, sample_weight=weights[test]
                )
    return C_GRID[int(losses.argmin())]


def _fit_mlp(
    z: NDArray, labels: NDArray, classes: int | None, weights: NDArray, hidden: int, seed: int
) -> Layers:
    """One hidden ReLU layer by Adam, stopped early on a held-out tenth where there are enough rows."""
    from sklearn.neural_network import MLPClassifier, MLPRegressor

    kind = MLPRegressor if classes is None else MLPClassifier
    enough = len(z) >= 100
    fitted = kind(
        (hidden,),
        alpha=1e-2,
        max_iter=400,
        early_stopping=enough,
        n_iter_no_change=30,
        random_state=seed,
        tol=1e-4,
    ).fit(z, labels, sample_weight=weights)
    layers = [(weight.T, bias) for weight, bias in zip(fitted.coefs_, fitted.intercepts_, strict=True)]
    layers[-1] = _all_classes(*layers[-1], getattr(fitted, "classes_", None), classes)
    return layers


def _all_classes(weight: NDArray, bias: NDArray, present: NDArray | None, classes: int | None):
    """Expand a head fitted on the present classes to one output row a class.

    scikit-learn gives one row for two classes; here each class has its own, half the margin each way, which
    leaves the probabilities as they were. A class never seen gets a logit far below the others.
    """
    import numpy as np

    if classes is None or present is None:
        return weight, bias
    if len(weight) == 1 and len(present) == 2:
        weight, bias = np.vstack([-weight, weight]) / 2, np.concatenate([-bias, bias]) / 2
    full_weight, full_bias = np.zeros((classes, weight.shape[1])), np.full(classes, -30.0)
    full_weight[present], full_bias[present] = weight, bias
    return full_weight, full_bias
