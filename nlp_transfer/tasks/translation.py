"""Translation: pairs of sentences learned by teacher forcing, scored on what the model writes."""

from __future__ import annotations

from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, ClassVar

from nlp_transfer.data.labels import IGNORED_LABEL
from nlp_transfer.errors import DataError, ModelError
from nlp_transfer.models.languages import Languages
from nlp_transfer.tasks.base import BestMetric, Task
from nlp_transfer.tasks.translation_options import TranslationOptions

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from datasets import Dataset
    from numpy.typing import NDArray
    from torch import Tensor
    from transformers import PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

__all__ = ["TranslationOptions", "TranslationTask"]


class TranslationTask(Task[TranslationOptions]):
    """Translation with an encoder-decoder.

    Args:
        options: what the recipe says.
        languages: with the model's codes, once settled.
        prefix: written before each text, once settled.
    """

    summary = "translation with an encoder-decoder (label-smoothed cross-entropy)"
    kind: ClassVar[str] = "translation"
    objective = "translation"
    best_metric = BestMetric("chrf", True)
    metric_names = ("chrf", "bleu")

    def __init__(
        self,
        options: TranslationOptions,
        *,
        languages: Languages | None = None,
        prefix: str = "",
    ) -> None:
        super().__init__(options)
        self.prefix = prefix
        self.languages = languages or Languages(
            options.source_lang, options.target_lang, options.source_code, options.target_code
        )

    def bind(self, train: Mapping[str, Dataset]) -> TranslationTask:
        """Nothing to settle: the references are the labels."""
        return self

    def settle(self, tokenizer: PreTrainedTokenizerBase, config: PretrainedConfig) -> TranslationTask:
        """Find the model's language codes and prefix, and set the tokenizer to them.

        Raises:
            ModelError: not an encoder-decoder, or a language that the model does not know.
        """
        from nlp_transfer.models import languages as codes
        from nlp_transfer.models.seq2seq import require_seq2seq

        require_seq2seq(config)

        languages = codes.settle_languages(tokenizer, self.languages)
        codes.use_languages(tokenizer, SimpleNamespace(), languages)
        prefix = self.options.prefix
        if prefix is None:
            prefix = codes.default_prefix(tokenizer, config, languages)
        return TranslationTask(self.options, languages=languages, prefix=prefix)

    @classmethod
    def from_model(cls, config: PretrainedConfig, saved: Mapping[str, Any]) -> TranslationTask:
        """Restore the task from ``nlp_transfer.json`` beside a model.

        Raises:
            ModelError: a model of another origin, whose languages are not written down.
        """
        try:
            options = TranslationOptions.model_validate(saved["options"])
            return cls(options, languages=Languages(*saved["languages"]), prefix=saved["prefix"])
        except (KeyError, TypeError, ValueError) as error:
            raise ModelError(
                "this translation model does not say which languages it translates",
                expected="nlp_transfer.json beside the model, as a run writes it",
                found="none that can be read",
                fix="train it first (a run of zero epochs will do): nlp-transfer train RECIPE",
            ) from error

    def describe(self) -> dict[str, Any]:
        """What ``from_model`` needs."""
        return {
            "options": self.options.model_dump(),
            "languages": list(self.languages),
            "prefix": self.prefix,
        }

    def build_model(self, source: Any, model_options: Any, *, quantization: Any = None) -> PreTrainedModel:
        """Load the encoder-decoder, set to write the target language.

        Raises:
            ModelError: from loading, or a language that the model does not know.
        """
        from nlp_transfer.models.seq2seq import load_seq2seq

        return self.tell(load_seq2seq(source, model_options, quantization=quantization), source)

    def tell(self, model: Any, source: Any) -> Any:
        """Set a model's generation to the target language."""
        from nlp_transfer.models.languages import use_languages
        from nlp_transfer.models.load import ModelOptions, load_tokenizer

        model.generation_config.num_beams = self.options.num_beams
        if self.languages.target_code is not None:
            tokenizer = load_tokenizer(source, ModelOptions(name=source.name))
            use_languages(tokenizer, model.generation_config, self.languages)
        return model

    @staticmethod
    def load_trained(source: Any, model_options: Any) -> PreTrainedModel:
        """Load what a run saved; an adapter is merged."""
        from nlp_transfer.models.seq2seq import load_seq2seq

        return load_seq2seq(source, model_options)

    @staticmethod
    def save_model(model: Any, folder: Any) -> None:
        """Save a model or an adapter so that plain transformers (or peft) loads it."""
        from nlp_transfer.models.seq2seq import save_seq2seq

        save_seq2seq(model, folder)

    def encode(
        self, dataset: Dataset, tokenizer: PreTrainedTokenizerBase, max_length: int, *, name: str = "data"
    ) -> Dataset:
        """Tokenise ``text`` (with the prefix) and ``translation``; ``length`` counts both sides' tokens.

        Raises:
            DataError: no rows.
        """
        if not len(dataset):
            raise DataError(
                f"{name}: there is nothing to encode",
                expected="at least one row",
                found="no rows",
                fix="check the data file and its filters",
            )
        from nlp_transfer.tasks.pairs import TokenisePairs

        tokenise = TokenisePairs(tokenizer, max_length, self.prefix)
        return dataset.map(tokenise, batched=True, remove_columns=dataset.column_names, desc="Tokenising")

    def collator(
        self, tokenizer: PreTrainedTokenizerBase, model: Any = None
    ) -> Callable[[list[dict[str, Any]]], dict[str, Tensor]]:
        """Pads both sides; adds ``decoder_input_ids`` where the model is given."""
        from nlp_transfer.tasks.pairs import PairCollator

        return PairCollator(tokenizer, model)

    def check_labels(self, dataset: Dataset, *, name: str = "data") -> None:
        """References are texts: the reading has checked them."""

    def loss(
        self,
        logits: Tensor,
        labels: Tensor,
        weights: Tensor | None = None,
        num_items: Tensor | int | None = None,
    ) -> Tensor:
        """Label-smoothed cross-entropy over target tokens; pads add nothing and are not counted.

        Args:
            logits: shape [n, T, V].
            labels: shape [n, T]; -100 at pads.
            weights: shape [n], one per row, with a mean of one over the training data.
            num_items: target tokens in the whole accumulation window, over all processes; default: of this
                batch.

        Returns:
            A scalar, float32: with equal ``num_items``, micro-batches add up to the loss of the whole.
        """
        import torch
        from torch.nn import functional

        values = functional.cross_entropy(
            logits.float().flatten(0, 1),
            labels.flatten(),
            ignore_index=IGNORED_LABEL,
            reduction="none" if weights is not None else "sum",
            label_smoothing=self.options.label_smoothing,
        )
        if weights is not None:
            values = (values.view(labels.shape).sum(1) * weights.float()).sum()
        if num_items is None:
            num_items = labels.ne(IGNORED_LABEL).sum().clamp(min=1)
        elif isinstance(num_items, torch.Tensor):
            num_items = num_items.to(values.device).float().mean()
        return values / num_items

    def trainer_defaults(self, training: Mapping[str, Any]) -> dict[str, Any]:
        """Batches by tokens are rows of their own: one a step, in random order."""
        values: dict[str, Any] = {"per_device_eval_batch_size": 16}
        if self.cuts_batches(training):
            values |= {"per_device_train_batch_size": 1, "train_sampling_strategy": "random"}
        return values

    def cuts_batches(self, training: Mapping[str, Any]) -> bool:
        """True unless the recipe counts sentences."""
        return "per_device_train_batch_size" not in training

    def training_rows(self, encoded: Dataset, training: Mapping[str, Any], seed: int) -> Any:
        """The encoded rows as batches by tokens, unless the recipe counts sentences."""
        if not self.cuts_batches(training):
            return encoded
        from nlp_transfer.tasks.pairs import TokenBatches

        return TokenBatches(encoded, self.options.batch_tokens, seed)

    evaluates_itself = True

    def validation_note(self, rows: int) -> str | None:
        """See the base class: fewer sentences, by a quicker search."""
        few, beams = min(rows, self.options.eval_max_samples), self.options.eval_num_beams
        if (few, beams) == (rows, self.options.num_beams):
            return None
        return (
            f"BLEU and chrF while training are of {few:,} of {rows:,} validation rows with {beams} beam(s); "
            f"figures at the end are of all rows with {self.options.num_beams}"
        )

    def validation_figures(
        self,
        model: Any,
        tokenizer: PreTrainedTokenizerBase,
        rows: Dataset,
        encoded: Dataset,
        collate: Callable[[list[Any]], dict[str, Any]],
        *,
        max_length: int,
        seed: int,
        generate: bool,
    ) -> tuple[dict[str, float], NDArray]:
        """Loss per target token (not smoothed); chrF and BLEU of translations of a sample of the rows."""
        from nlp_transfer.tasks.translation_metrics import TranslationScorer

        losses = self._losses(model, encoded, collate)
        if not generate:
            return {"loss": float(-losses.mean())}, losses
        texts, references, found = self._sample(model, tokenizer, rows, max_length, seed)
        scorer = TranslationScorer(self.languages.target, ("bleu",))
        figures = {"chrf": float(found.mean()), **scorer.scores(texts, references)}
        return {"loss": float(-losses.mean()), **figures}, found

    def row_figures(
        self,
        model: Any,
        tokenizer: PreTrainedTokenizerBase,
        rows: Dataset,
        *,
        max_length: int,
        seed: int,
        generate: bool,
    ) -> NDArray:
        """One figure a row, larger being better, by which two models can be compared.

        With ``generate`` their mean is chrF of a sample of the rows, drawn by ``seed``; otherwise it is the
        negative loss per target token of all rows.
        """
        if not generate:
            encoded = self.encode(rows, tokenizer, max_length)
            return self._losses(model, encoded, self.collator(tokenizer, model))
        return self._sample(model, tokenizer, rows, max_length, seed)[2]

    def _losses(self, model: Any, encoded: Dataset, collate: Callable[..., Any]) -> NDArray:
        """Negative losses [n] in shares of the mean number of target tokens, which no model changes."""
        from nlp_transfer.models.seq2seq import target_losses

        losses, tokens = target_losses(model, encoded, collate)
        return -losses / tokens.mean()

    def _sample(
        self, model: Any, tokenizer: Any, rows: Dataset, max_length: int, seed: int
    ) -> tuple[list[str], list[str], NDArray]:
        """Translations of a sample of the rows, their references, and chrF as one figure a row."""
        from nlp_transfer.tasks.translation_metrics import TranslationScorer

        limit = self.options.eval_max_samples
        rows = rows.shuffle(seed=seed).select(range(limit)) if len(rows) > limit else rows
        texts = self._translate(model, tokenizer, rows["text"][:], max_length, self.options.eval_num_beams)
        references = list(rows["translation"][:])
        return texts, references, TranslationScorer(metrics=("chrf",)).jackknife(texts, references)

    def batch_figures(self, rows: Any) -> dict[str, float]:
        """Share of padding in the batches by tokens."""
        waste = getattr(rows, "padding_waste", None)
        return {} if waste is None else {"padding_waste": round(waste, 4)}

    def knows(self, config: Mapping[str, Any]) -> bool:
        """Every encoder-decoder that is not from scratch writes something."""
        return True

    @property
    def answers(self) -> tuple[str, ...]:
        """Both languages."""
        return tuple(self.languages[:2])

    def outputs(
        self,
        model: Any,
        tokenizer: PreTrainedTokenizerBase,
        rows: Dataset,
        max_length: int,
        *,
        name: str = "data",
    ) -> list[str]:
        """Beam-search translations of the rows' texts."""
        return self._translate(model, tokenizer, rows["text"][:], max_length, self.options.num_beams)

    def score(
        self,
        model: Any,
        tokenizer: PreTrainedTokenizerBase,
        rows: Dataset,
        max_length: int,
        *,
        name: str = "data",
        baseline: Any = None,
    ) -> dict[str, Any]:
        """BLEU, chrF and TER of beam-search translations, and the loss of the references, with intervals."""
        from nlp_transfer.models.seq2seq import target_losses
        from nlp_transfer.tasks.bootstrap import bootstrap_interval
        from nlp_transfer.tasks.translation_metrics import translation_report

        found = self.outputs(model, tokenizer, rows, max_length)
        report = translation_report(
            found, rows["translation"][:], target_language=self.languages.target, baseline=baseline
        )
        encoded = self.encode(rows, tokenizer, max_length, name=name)
        losses = target_losses(model, encoded, self.collator(tokenizer, model))
        report["loss"] = bootstrap_interval(_per_token, *losses)
        return report

    def predict(
        self, model: Any, tokenizer: PreTrainedTokenizerBase, texts: Sequence[str], max_length: int
    ) -> list[dict[str, Any]]:
        """``{"translation"}`` for each text."""
        found = self._translate(model, tokenizer, list(texts), max_length, self.options.num_beams)
        return [{"translation": text} for text in found]

    def _translate(
        self, model: Any, tokenizer: Any, texts: list[str], max_length: int, beams: int
    ) -> list[str]:
        from nlp_transfer.models.seq2seq import translate

        return translate(
            model,
            tokenizer,
            texts,
            prefix=self.prefix,
            max_length=max_length,
            max_new_tokens=self.options.max_new_tokens,
            num_beams=beams,
        )


def _per_token(losses: NDArray, tokens: NDArray, axis: int) -> NDArray:
    return losses.sum(axis) / tokens.sum(axis)
