"""Continued pretraining: the classifier's encoder learns a language-modelling objective on target text."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import Dataset as TorchDataset
from transformers import AutoModelForCausalLM, AutoModelForMaskedLM, AutoModelForSeq2SeqLM, Trainer
from transformers.modeling_outputs import BaseModelOutputWithPastAndCrossAttentions
from transformers.trainer_pt_utils import LengthGroupedSampler

from nlp_transfer.adaptation.pretraining import Objective, Pretraining, corrupt_spans, mask_tokens
from nlp_transfer.console import notice
from nlp_transfer.data.labels import IGNORED_LABEL
from nlp_transfer.errors import ModelError
from nlp_transfer.models import load
from nlp_transfer.models.features import encoder_of
from nlp_transfer.processes import from_main, main_first
from nlp_transfer.training.arguments import training_arguments
from nlp_transfer.training.callbacks import LengthGroupedOrder, Progress, drop_printing
from nlp_transfer.training.checkpoints import last_checkpoint
from nlp_transfer.training.faults import check_finite_loss, guards, train_safely
from nlp_transfer.training.paired import EpochSeed
from nlp_transfer.training.phases import Setup, target_texts
from nlp_transfer.training.record import phase_record
from nlp_transfer.training.resume import keep_phase, take_over
from nlp_transfer.training.together import Together
from nlp_transfer.training.trainer import refuse_shards

if TYPE_CHECKING:
    from datasets import Dataset
    from numpy.typing import NDArray
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

NAME = "pretraining"
AUTO: dict[Objective, Any] = {
    "masked": AutoModelForMaskedLM,
    "causal": AutoModelForCausalLM,
    "spans": AutoModelForSeq2SeqLM,
}


def pretrain(model: nn.Module, setup: Setup, max_length: int) -> dict[str, Any]:
    """Train the encoder inside ``model`` (through its adapters, where it has some) on target text, in place.

    Args:
        model: the classifier, prepared by the strategy.
        setup: of the run.
        max_length: tokens of a text.

    Returns:
        The phase's record for ``metrics.json``.

    Raises:
        ModelError: an objective that the architecture or tokenizer cannot have.
    """
    from datasets import concatenate_datasets

    folder = setup.folder.checkpoints(NAME)
    record = take_over(model, folder, setup.task) if setup.resume else None
    if record is not None:
        notice("pretraining: finished before the run was interrupted, taken over")
        return record
    method: Pretraining = setup.adaptations("pretraining")[0]
    options = method.options
    objective = choose_objective(model, options.objective)
    source = setup.domains.get("source")
    tables = [target_texts(setup.domains["target"])]
    tables += [source.train] if options.with_source and source is not None else []
    texts = concatenate_datasets([table.select_columns(["text"]) for table in tables if table])
    encoded = main_first(
        lambda: setup.task.encode(texts, setup.tokenizer, max_length, name="pretraining texts")
    )
    rows = CorruptedTexts(encoded, setup.tokenizer, method, objective, setup.recipe.seed)
    module = LanguageModel(model, setup, objective)
    arguments = training_arguments(setup.recipe, setup.task, setup.strategy, folder, evaluates=False)
    arguments.num_train_epochs, arguments.learning_rate = options.epochs, options.learning_rate
    arguments.ddp_find_unused_parameters = True  # an encoder's pooler has no part in this
    trainer = LanguageTrainer(
        model=module,
        args=arguments,
        data_collator=CorruptedCollator(setup.tokenizer),
        train_dataset=rows,
        processing_class=setup.tokenizer,
        callbacks=[
            *(EpochSeed(rows), LengthGroupedOrder(), Progress("pretraining")),
            *setup.callbacks,
            *guards(setup),
        ],
    )
    drop_printing(trainer)
    refuse_shards(trainer)
    checkpoint = from_main(lambda: last_checkpoint(folder)) if setup.resume else None
    outcome = train_safely(trainer, folder, checkpoint)
    record = phase_record(trainer, outcome, NAME, len(rows), checkpoint) | {"objective": objective}
    keep_phase(trainer, folder, record, save=functools.partial(setup.task.save_model, model))
    return record


def choose_objective(model: nn.Module, wanted: str) -> Objective:
    """What the architecture was made for.

    Raises:
        ModelError: another one is asked for.
    """
    config = encoder_of(model).config
    if config.is_encoder_decoder or load.is_encoder_half(config):
        found: Objective = "spans"
    else:
        found = "causal" if load.default_pooling(config) == "last" else "masked"
    if wanted not in ("auto", found):
        raise ModelError(
            f"pretraining: the objective {wanted} does not fit a model of type {config.model_type}",
            expected=found,
            found=wanted,
            fix="leave objective out",
        )
    return found


class CorruptedTexts(TorchDataset):
    """Encoded texts with their corruption, which is a function of seed, epoch and row alone.

    Raises:
        ModelError: the tokenizer has no mask token, or no sentinel tokens.
    """

    def __init__(
        self,
        encoded: Dataset,
        tokenizer: PreTrainedTokenizerBase,
        method: Pretraining,
        objective: Objective,
        seed: int,
    ) -> None:
        self.encoded, self.objective, self.options, self.seed = encoded, objective, method.options, seed
        self.epoch = 0
        self.lengths: list[int] = encoded["length"][:]
        self.special = np.array(sorted(tokenizer.all_special_ids))
        self.vocabulary, self.mask, self.end = len(tokenizer), tokenizer.mask_token_id, tokenizer.eos_token_id
        self.sentinels = _sentinels(tokenizer) if objective == "spans" else np.array([])
        if objective == "masked" and self.mask is None:
            raise ModelError(
                "pretraining: the tokenizer has no mask token",
                expected="mask_token in tokenizer_config.json",
                fix="choose an encoder that was pretrained with masked language modelling",
            )

    def set_epoch(self, epoch: int) -> None:
        """Corrupt anew."""
        self.epoch = epoch

    def __len__(self) -> int:
        return len(self.encoded)

    def __getitem__(self, index: int) -> dict[str, Any]:
        ids = np.array(self.encoded[int(index)]["input_ids"])
        rng = np.random.default_rng([self.seed, self.epoch, int(index)])
        options = self.options
        if self.objective == "masked":
            special = np.isin(ids, self.special)
            ids, labels = mask_tokens(
                ids, special, options.mask_share, cast(int, self.mask), self.vocabulary, rng
            )
        elif self.objective == "spans":
            bare = ids[~np.isin(ids, self.special)]
            ids, labels = corrupt_spans(
                bare, self.sentinels, options.mask_share, options.span_length, cast(int, self.end), rng
            )
        else:
            labels = np.append(ids[1:], IGNORED_LABEL)
        return {"input_ids": ids.tolist(), "attention_mask": [1] * len(ids), "labels": labels.tolist()}


def _sentinels(tokenizer: PreTrainedTokenizerBase) -> NDArray:
    ids: Any = tokenizer.convert_tokens_to_ids([f"<extra_id_{number}>" for number in range(100)])
    found = [number for number in ids if number is not None and number != tokenizer.unk_token_id]
    if not found or tokenizer.eos_token_id is None:
        raise ModelError(
            "pretraining: the tokenizer has no sentinel tokens for span corruption",
            expected="<extra_id_0>, <extra_id_1>, ... and an end token, as T5 has them",
            fix="choose a model of the T5 family, or leave pretraining out",
        )
    return np.array(found)


class CorruptedCollator:
    """Pad texts, and labels to their own longest."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self.tokenizer = tokenizer

    def __call__(self, rows: Sequence[dict[str, Any]]) -> dict[str, Tensor]:
        """One batch of tensors."""
        inputs = [{name: row[name] for name in ("input_ids", "attention_mask")} for row in rows]
        batch = dict(self.tokenizer.pad(inputs, return_tensors="pt"))
        longest = max(len(row["labels"]) for row in rows)
        padded = [row["labels"] + [IGNORED_LABEL] * (longest - len(row["labels"])) for row in rows]
        return {**batch, "labels": torch.tensor(padded)}


class LanguageTrainer(Trainer):
    """A Trainer that groups corrupted texts by the length of the whole ones."""

    def training_step(
        self, model: nn.Module, inputs: dict[str, Any], num_items_in_batch: Tensor | int | None = None
    ) -> Tensor:
        """The Trainer's step, which ends the training where its loss is not finite."""
        loss = super().training_step(model, inputs, num_items_in_batch)
        check_finite_loss(loss, inputs, self.state.global_step + 1)
        return loss

    def _get_train_sampler(self, train_dataset: Any = None) -> Any:
        if self.args.train_sampling_strategy != "group_by_length":
            return super()._get_train_sampler(train_dataset)
        rows = cast(CorruptedTexts, self.train_dataset)
        size = self.args.train_batch_size * self.args.gradient_accumulation_steps
        return LengthGroupedSampler(size, dataset=cast(Any, rows), lengths=rows.lengths)


class _Given(nn.Module):
    """Stands where a language model has its body, and hands back vectors that were made elsewhere."""

    def __init__(self, encoder: nn.Module) -> None:
        super().__init__()
        self.held = (encoder,)  # in a tuple: a reference, not a part of this module
        self.vectors: Tensor | None = None

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(self.held[0], name)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return BaseModelOutputWithPastAndCrossAttentions(last_hidden_state=self.vectors)


class LanguageModel(Together):
    """A classifier's encoder under the language-modelling head of its architecture.

    The head runs at the predicted tokens alone: for a vocabulary of 30,000 that is most of its cost saved.

    Args:
        classifier: or an adapter on one; its encoder is trained.
        setup: of the run; tells where the checkpoint's own head lies.
        objective: of the architecture.
    """

    accepts_loss_kwargs = True

    def __init__(self, classifier: nn.Module, setup: Setup, objective: Objective) -> None:
        encoder = encoder_of(classifier)
        super().__init__(encoder, adapter=hasattr(classifier, "peft_config"))
        self.objective = objective
        self.language_model = _language_model(encoder, setup, objective)
        embeddings = encoder.get_input_embeddings()
        if objective == "spans":
            self.language_model.encoder = getattr(encoder, "encoder", encoder)
            self.language_model.set_input_embeddings(embeddings)
            if self.adapter:
                self.language_model.decoder.requires_grad_(False)
        else:
            self._given = _Given(encoder)
            setattr(self.language_model, self.language_model.base_model_prefix, self._given)
        output = self.language_model.get_output_embeddings()
        if getattr(encoder.config, "tie_word_embeddings", True) and output is not None:
            output.weight = embeddings.weight
        self._accepts = set(inspect.signature(encoder.forward).parameters)

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor,
        labels: Tensor,
        num_items_in_batch: Tensor | int | None = None,
    ) -> dict[str, Tensor]:
        """The cross-entropy of the predicted tokens: their sum over ``num_items_in_batch``, else their
        mean."""
        where = labels != IGNORED_LABEL
        inputs = {"input_ids": input_ids, "attention_mask": attention_mask}
        if self.objective == "spans":
            logits = self.language_model(**inputs, labels=labels, use_cache=False).logits[where]
        else:
            hidden = self.model(**inputs, return_dict=True).last_hidden_state
            self._given.vectors = hidden[where][None]
            logits = self.language_model(**inputs).logits.flatten(0, -2)
            self._given.vectors = None
        total = functional.cross_entropy(logits.float(), labels[where], reduction="sum")
        count = where.sum().clamp(min=1) if num_items_in_batch is None else num_items_in_batch
        return {"loss": total / count}


def _language_model(encoder: PreTrainedModel, setup: Setup, objective: Objective) -> Any:
    """The architecture's language model; with the checkpoint's own head where it has one."""
    auto, source = AUTO[objective], setup.pretrained
    own = source.read_json("config.json").get("model_type") == encoder.config.model_type
    with load.loading(source, setup.recipe.model), torch.random.fork_rng(devices=[]):
        torch.manual_seed(setup.recipe.seed)
        if source.is_adapter or not own:
            model, fresh = auto.from_config(encoder.config, dtype=encoder.dtype), True
        else:
            model, info = auto.from_pretrained(
                source.folder,
                config=encoder.config,
                dtype=encoder.dtype,
                use_safetensors=True,
                output_loading_info=True,
            )
            fresh = any(
                not str(key).startswith(f"{model.base_model_prefix}.") for key in info["missing_keys"]
            )
    if fresh:
        notice(f"{source.name}: no language-modelling head: a fresh one, tied to the embeddings, is trained")
    return model.to(encoder.device)
