"""Continued pretraining on target text, before the task is learned."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import pydantic
from pydantic import Field

from nlp_transfer.adaptation.base import Adaptation, AdaptationOptions
from nlp_transfer.data.labels import IGNORED_LABEL

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

Objective = Literal["masked", "spans", "causal"]


class PretrainingOptions(AdaptationOptions):
    """Go on with the model's own pretraining, on target text."""

    kind: Literal["pretraining"] = "pretraining"
    objective: Literal["auto", "masked", "spans", "causal"] = "auto"
    """masked language modelling for encoders, span corruption for encoder-decoders such as T5, next-token
    prediction for decoders; auto: what the architecture was made for."""
    epochs: float = Field(default=1.0, gt=0)
    """Passes over the target texts; ``training.max_steps`` bounds them too."""
    learning_rate: float = Field(default=5e-5, gt=0)
    """Peak learning rate of this phase."""
    mask_share: float = Field(default=0.15, gt=0, lt=1)
    """Share of the tokens to be predicted (masked, spans)."""
    span_length: float = Field(default=3.0, ge=1)
    """Mean tokens of a span (spans)."""
    with_source: bool = False
    """Read the source's texts too."""

    @pydantic.model_validator(mode="after")
    def _fits(self) -> PretrainingOptions:
        if self.objective == "causal" and {"mask_share", "span_length"} & self.model_fields_set:
            raise ValueError("objective causal predicts every token: leave out mask_share and span_length")
        return self


class Pretraining(Adaptation[PretrainingOptions]):
    """Task-adaptive pretraining (Gururangan et al. 2020), a phase before all others.

    It fits every mode: the phases on source and target follow as they are. With LoRA the adapters learn it.
    The language-modelling head is the checkpoint's own where it has one, else a fresh one tied to the
    embeddings; it is dropped afterwards. Cost: like training on the same texts; predictions are made at the
    chosen tokens alone. It hurts a sentence encoder whose few target texts do not make up for what it
    forgets.
    """

    summary = "continued pretraining on target text (masked, spans or causal) before the task"
    stage = "pretraining"
    strategies = ("full", "lora")
    needs_source = False
    alone_in_stage = True


def mask_tokens(
    ids: NDArray, special: NDArray, share: float, mask_id: int, vocabulary: int, rng: np.random.Generator
) -> tuple[NDArray, NDArray]:
    """BERT's corruption of one text (Devlin et al. 2019, section 3.1).

    Of the tokens that are not special a ``share`` (at least one) is to be predicted: 80 % of them become the
    mask, 10 % a random token, 10 % stay.

    Returns:
        Corrupted ids and labels [t]; labels are -100 where nothing is predicted.
    """
    import numpy as np

    labels = np.full(len(ids), IGNORED_LABEL, dtype=np.int64)
    corrupted = np.array(ids, dtype=np.int64)
    open_ = np.flatnonzero(~special)
    if not len(open_):
        return corrupted, labels
    chosen = open_[rng.random(len(open_)) < share]
    if not len(chosen):
        chosen = rng.choice(open_, 1)
    labels[chosen] = corrupted[chosen]
    draw = rng.random(len(chosen))
    corrupted[chosen[draw < 0.8]] = mask_id
    swapped = chosen[(draw >= 0.8) & (draw < 0.9)]
    corrupted[swapped] = rng.integers(vocabulary, size=len(swapped))
    return corrupted, labels


def corrupt_spans(
    ids: NDArray, sentinels: NDArray, share: float, mean_length: float, end: int, rng: np.random.Generator
) -> tuple[NDArray, NDArray]:
    """T5's corruption of one text (Raffel et al. 2020, section 3.1.4): spans give way to sentinels.

    Args:
        ids: tokens without the end token.
        sentinels: ids of the sentinel tokens, first to last.
        share: of the tokens that are cut out.
        mean_length: of a span.
        end: id of the end token.
        rng: of the draw.

    Returns:
        Input (with sentinels and the end token), and labels: each sentinel with what it stands for, then the
        end token.
    """
    import numpy as np

    ids = np.asarray(ids, dtype=np.int64)
    cut = min(max(round(len(ids) * share), 1), len(ids) - 1)
    if cut < 1:
        return np.append(ids, [sentinels[0], end]), np.array([sentinels[0], end])
    spans = min(max(round(cut / mean_length), 1), len(sentinels), cut, len(ids) - cut)
    lengths, gaps = _parts(cut, spans, rng), _parts(len(ids) - cut, spans, rng)
    inputs, labels, place = [], [], 0
    for sentinel, gap, length in zip(sentinels, gaps, lengths, strict=False):
        inputs += [ids[place : place + gap], [sentinel]]
        labels += [[sentinel], ids[place + gap : place + gap + length]]
        place += gap + length
    return np.concatenate([*inputs, [end]]).astype(np.int64), np.concatenate([*labels, [end]]).astype(
        np.int64
    )


def _parts(total: int, count: int, rng: np.random.Generator) -> NDArray:
    """Split a number into so many positive parts, at random."""
    import numpy as np

    places = np.sort(rng.choice(total - 1, count - 1, replace=False)) + 1 if count > 1 else np.array([])
    return np.diff(np.concatenate([[0], places, [total]])).astype(int)
