"""What the shift report says of parallel text: how a model translates both domains before any training."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

import datasets
import numpy as np

from nlp_transfer.data.domains import DomainData
from nlp_transfer.errors import DataError
from nlp_transfer.models.load import ModelOptions, load_config, load_tokenizer, locate, resolve_max_length
from nlp_transfer.numeric.ngram import NgramModel
from nlp_transfer.shift.statistics import Statistic
from nlp_transfer.shift.vocabulary import Counts, count, vocabulary_statistics
from nlp_transfer.tasks.bootstrap import Interval, bootstrap_interval
from nlp_transfer.tasks.translation_metrics import TranslationScorer

if TYPE_CHECKING:
    from datasets import Dataset

    from nlp_transfer.models.embed import Embedder
    from nlp_transfer.models.source import ModelSource
    from nlp_transfer.tasks.translation import TranslationTask

Array = np.ndarray
ZERO_SHOT_ROWS = 200
"""Pairs of each domain that the model translates for the report, greedily."""
POOR, GOOD = 35.0, 50.0
"""chrF below which a model hardly translates a domain, and from which it does so well."""
APART = 5.0
"""Points of chrF by which a model must be better on the source to have something to lose there."""
FEW_PAIRS = 100


@dataclass(frozen=True)
class ZeroShot:
    """How a model translates a sample of a domain as it is.

    Attributes:
        rows: pairs in the sample.
        split: they were drawn from.
        chrf, bleu: of greedy translations, 0 to 100, with 95 % intervals.
        loss: nats per token of the references, with its 95 % interval.
    """

    rows: int
    split: str
    chrf: Interval
    bleu: Interval
    loss: Interval


@dataclass(frozen=True)
class TranslationShift:
    """The verdict on parallel text; experimental: no study stands behind its thresholds.

    Attributes:
        source, target: the model as it is on both domains.
        own_text_loss: nats per token of the target's references under a trigram model of other references of
            the target: what the target's text teaches without any translation model.
        own_text_rows: references that model was fitted on.
        headline, sentence, advice: the verdict in words.
        reasons: what it rests on.
        experimental: always true.
    """

    source: ZeroShot
    target: ZeroShot
    own_text_loss: float
    own_text_rows: int
    headline: str
    sentence: str
    advice: str
    reasons: tuple[str, ...]
    experimental: bool = True

    @property
    def chrf_gap(self) -> float:
        """chrF on the source less chrF on the target."""
        return float(self.source.chrf["value"] or 0) - float(self.target.chrf["value"] or 0)

    def caveats(self, source: str, target: str) -> tuple[str, ...]:
        """What the verdict on the domains of these names cannot say."""
        out = [
            "The verdict on translation is experimental: it rests on how the model translates now, and no "
            "study has measured how often it is right."
        ]
        if self.source.split == "train":
            out.append(
                f"If the model was trained on the pairs of {source} drawn here, its figures on them are too "
                "good: name held-out pairs."
            )
        few = [name for name, side in ((source, self.source), (target, self.target)) if side.rows < FEW_PAIRS]
        return (*out, *(f"{name} has few pairs: its chrF and loss are rough." for name in few))

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return {**asdict(self), "chrf_gap": self.chrf_gap}


class Translator:
    """A translation model that can embed, count tokens and translate.

    Args:
        task: the translation task; its languages are settled for the model.
        options: the recipe's ``model``.
        source: where it lies; None: what the options name.

    Raises:
        ModelError: not a translation model, or a language that it does not know.
    """

    def __init__(
        self, task: TranslationTask, options: ModelOptions, source: ModelSource | None = None
    ) -> None:
        import torch

        source = source or locate(options)
        self.tokenizer = load_tokenizer(source, options)
        config = load_config(source, options)
        self.task = task.settle(self.tokenizer, config)
        self.max_length = resolve_max_length(self.tokenizer, config, options.max_length)
        device = "cuda" if torch.cuda.is_available() else "cpu"
        model: Any = self.task.build_model(source, options)
        self.model = model.to(device).eval()
        self._options = options

    def embedder(self) -> Embedder:
        """Mean-pooled encoder states, of length one."""
        from nlp_transfer.models.embed import Embedder as Embedding

        encoder = self.model.get_encoder()
        encoder.name_or_path = self.model.name_or_path
        return Embedding(
            encoder, self.tokenizer, options=self._options, normalize=True, max_length=self.max_length
        )

    def tokenize(self, texts: list[str], *, references: bool = False) -> list[list[int]]:
        """Token numbers without special tokens, as the encoder or the decoder reads them."""
        from nlp_transfer.models.load import quiet

        clean = [text.encode("utf-8", "replace").decode("utf-8") for text in texts]
        with quiet():
            side: dict[str, Any] = {"text_target": clean} if references else {"text": clean}
            return self.tokenizer(**side, add_special_tokens=False)["input_ids"]

    def zero_shot(self, pairs: Dataset, split: str, *, seed: int) -> ZeroShot:
        """Translate pairs greedily, and score translations and references.

        Cost: one greedy translation and one forward pass a pair.
        """
        from nlp_transfer.models.seq2seq import target_losses, translate

        texts, references = pairs["text"][:], pairs["translation"][:]
        settings: dict[str, Any] = {"prefix": self.task.prefix, "max_length": self.max_length}
        found = translate(self.model, self.tokenizer, texts, num_beams=1, **settings)
        scorer = TranslationScorer(self.task.languages.target, ("bleu", "chrf"))
        scores = scorer.report(found, references, seed=seed)
        encoded = self.task.encode(pairs, self.tokenizer, self.max_length)
        losses = target_losses(self.model, encoded, self.task.collator(self.tokenizer, self.model))
        chrf, bleu = (
            Interval(value=score["value"], low=score["low"], high=score["high"])
            for score in (scores["chrf"], scores["bleu"])
        )
        return ZeroShot(len(texts), split, chrf, bleu, bootstrap_interval(_per_token, *losses, seed=seed))


def translation_shift(
    translator: Translator,
    source: DomainData,
    target: DomainData,
    *,
    rows: int = ZERO_SHOT_ROWS,
    max_samples: int = 2000,
    permutations: int = 200,
    seed: int = 42,
) -> tuple[TranslationShift, list[Statistic]]:
    """Compare how a model translates two domains, and what their references are made of.

    The target's pairs come from its training rows; the source's from validation or test where there are any,
    for the model may have been trained on the rest.

    Args:
        translator: the model before any training.
        source, target: parallel text.
        rows: pairs of each domain that are translated.
        max_samples: references of each domain whose tokens are counted.
        permutations: of the tests on tokens.
        seed: of every draw.

    Raises:
        DataError: a domain without pairs.
    """
    samples, zero = [], []
    for offset, data in enumerate((source, target)):
        pairs, split = draw_pairs(data, rows, seed + offset)
        zero.append(translator.zero_shot(pairs, split, seed=seed))
        samples.append(draw_pairs(data, max_samples, seed + offset, training=True)[0])
    sides = [sample["translation"][:] for sample in samples]
    counts = count(sides, lambda texts: translator.tokenize(texts, references=True))
    statistics = [
        replace(
            item,
            name=f"reference_{item.name}",
            title=f"{item.title} of the references",
            group="references",
        )
        for item in vocabulary_statistics(*counts, permutations=permutations, seed=seed)
    ]
    unknown = translator.tokenizer.unk_token_id
    words = count([sample["text"][:] for sample in samples], translator.tokenize)
    if unknown is not None:
        statistics.append(_unknown("unknown_token_rate", "the texts", words, unknown, "vocabulary", seed))
        statistics.append(
            _unknown("reference_unknown_token_rate", "the references", counts, unknown, "references", seed)
        )
    loss, fitted = own_text_loss(translator, sides[1], seed=seed)
    shift = judge(zero[0], zero[1], loss, fitted, source.name, target.name)
    return shift, [*_zero_shot_statistics(shift), *statistics]


def draw_pairs(
    data: DomainData, rows: int, seed: int, *, training: bool | None = None
) -> tuple[Dataset, str]:
    """Draw pairs by seed, and say from which split.

    Args:
        data: parallel text.
        rows: pairs wanted at most.
        seed: of the draw.
        training: prefer the training rows; None: for a target alone.

    Raises:
        DataError: there are no pairs.
    """
    first = data.role == "target" if training is None else training
    order = ("train", "validation", "test") if first else ("validation", "test", "train")
    for split in order:
        table = getattr(data, split)
        if table is not None and "translation" in table.column_names:
            chosen = np.random.default_rng(seed).permutation(len(table))[:rows]
            columns = {name: table.select(chosen)[name][:] for name in ("text", "translation")}
            return datasets.Dataset.from_dict(columns), split
    raise DataError(
        f"domain {data.name} has no pairs to translate",
        expected="sentences with their translations",
        found=", ".join(data.sizes) or "nothing",
        fix=f"give {data.role}.train parallel text",
    )


def own_text_loss(translator: Translator, references: Sequence[str], *, seed: int) -> tuple[float, int]:
    """Nats per token of references under a trigram model of the other half of them; and how many that is."""
    rows = translator.tokenize(list(references), references=True)
    order = np.random.default_rng(seed).permutation(len(rows))
    halves = [[rows[i] for i in part] for part in (order[::2], order[1::2])]
    nats = tokens = 0.0
    for fitted, judged in (halves, halves[::-1]):
        model = NgramModel(len(translator.tokenizer), 3)
        model.update(*_flat(fitted))
        numbers, lengths = _flat(judged)
        nats += float((model.cross_entropy(numbers, lengths) * (lengths + 1)).sum())
        tokens += float((lengths + 1).sum())
    return nats / max(tokens, 1.0), len(halves[1])


def judge(
    source: ZeroShot, target: ZeroShot, own_loss: float, own_rows: int, source_name: str, target_name: str
) -> TranslationShift:
    """Put the figures into words."""
    there, here = float(source.chrf["value"] or 0), float(target.chrf["value"] or 0)
    loss, before = float(target.loss["value"] or 0), float(source.loss["value"] or 0)
    gap, knows = there - here, loss < own_loss
    quality = "well already" if here >= GOOD else "in part" if here >= POOR else "hardly at all yet"
    headline = f"Experimental: this model translates {target_name} {quality}"
    sentence = (
        f"Before training it reaches chrF {here:.1f} on {target_name} and {there:.1f} on {source_name}, and "
        f"needs {loss:.2f} and {before:.2f} nats per token of the references."
    )
    if here >= GOOD:
        advice = f"score the model on {target_name} as it is before you train: there may be little to gain"
    elif gap >= APART:
        advice = (
            f"fine-tune on {target_name} from this model, mix some of {source_name} in, and score both "
            f"before and after: what the model knows of {source_name} can be lost"
        )
    else:
        advice = (
            f"fine-tune on {target_name} from this model; it translates {source_name} no better, whose pairs "
            f"may serve as further training text, those most like {target_name} first (source.select)"
        )
    if here < GOOD and not knows:
        advice += f". Pairs of {target_name} count for more than the model here: collect more of them"
    compared = "less" if knows else "more"
    reasons = (
        f"chrF on {target_name} is {abs(gap):.1f} points {'below' if gap >= 0 else 'above'} that on "
        f"{source_name} ({target.rows} and {source.rows} pairs, greedy search)",
        f"the model's loss on {target_name}, {loss:.2f} nats per token, is {compared} than the "
        f"{own_loss:.2f} of a trigram model of {own_rows:,} other references of {target_name}",
    )
    return TranslationShift(source, target, own_loss, own_rows, headline, sentence, advice, reasons)


def _zero_shot_statistics(shift: TranslationShift) -> list[Statistic]:
    out = []
    kinds = (
        ("zero_shot_chrf", "chrF before training", "chrf", "Character n-gram F-score of greedy translations"),
        ("zero_shot_bleu", "BLEU before training", "bleu", "BLEU of greedy translations"),
        ("zero_shot_loss", "loss before training", "loss", "Nats per token of the references"),
    )
    for name, title, field, what in kinds:
        ours, theirs = getattr(shift.source, field), getattr(shift.target, field)
        detail = {"source": ours["value"], "source_interval": (ours["low"], ours["high"])}
        if field == "loss":
            detail["own_text_loss"] = shift.own_text_loss
        out.append(
            Statistic(
                name,
                title,
                theirs["value"],
                (theirs["low"], theirs["high"]),
                "value",
                None,
                f"{what} of the target; {ours['value']:.2f} on the source (range {ours['low']:.2f} to "
                f"{ours['high']:.2f}).",
                "translation",
                detail,
            )
        )
    return out


def _unknown(
    name: str, what: str, counts: Sequence[Counts], unknown: int, group: Any, seed: int
) -> Statistic:
    rates = []
    for side in counts:
        rare = np.zeros(side.tokens.shape[0])
        if unknown < side.tokens.shape[1]:
            rare = np.asarray(side.tokens[:, [unknown]].sum(1)).ravel()
        rates.append(bootstrap_interval(_per_token, rare, np.maximum(side.token_lengths, 1e-9), seed=seed))
    ours, theirs = rates
    return Statistic(
        name,
        f"unknown-token rate of {what}",
        float(theirs["value"] or 0),
        (float(theirs["low"] or 0), float(theirs["high"] or 0)),
        "value",
        None,
        f"Share of tokens that the model's vocabulary lacks: {100 * (theirs['value'] or 0):.2f} % in the "
        f"target, {100 * (ours['value'] or 0):.2f} % in the source.",
        group,
        {"source": ours["value"]},
    )


def _per_token(sums: Array, tokens: Array, axis: int) -> Array:
    return sums.sum(axis) / tokens.sum(axis)


def _flat(rows: Sequence[Sequence[int]]) -> tuple[Array, Array]:
    lengths = np.array([len(row) for row in rows], np.int64)
    tokens = np.fromiter((token for row in rows for token in row), np.int64, int(lengths.sum()))
    return tokens, lengths
