"""Text classifiers: the architecture's own head, or an encoder with pooling and a plain head."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import nn
from transformers import AutoModelForSequenceClassification, PretrainedConfig, PreTrainedModel

from nlp_transfer.console import notice
from nlp_transfer.errors import ModelError
from nlp_transfer.models import load
from nlp_transfer.models.features import encoder_of, logits_and_features, pooled_features
from nlp_transfer.models.load import ModelOptions, ModelSource
from nlp_transfer.models.pooled import PooledClassifier, PooledClassifierConfig
from nlp_transfer.models.weights import ADAPTER_WEIGHTS, read_header

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from peft import PeftModel

    from nlp_transfer.models.embed import Embedder

__all__ = [
    "PooledClassifier",
    "PooledClassifierConfig",
    "build_classifier",
    "classifier_from_head",
    "declare_base",
    "encoder_of",
    "load_classifier",
    "logits_and_features",
    "pooled_features",
    "save_classifier",
    "start_at",
]

ProblemType = Literal["single_label_classification", "regression"]


def build_classifier(
    source: ModelSource,
    options: ModelOptions,
    *,
    num_labels: int,
    id2label: Mapping[int, str],
    problem_type: ProblemType,
    head_hidden: Sequence[int] = (),
    quantization: Any = None,
) -> PreTrainedModel:
    """Load a pretrained model with a head for these labels.

    A head of the checkpoint is kept where it has the right size. A fresh one takes its values from torch's
    global generator: call ``set_seed`` first, and equal seeds give equal heads.

    Args:
        source: from ``locate``. A run folder or an adapter (merged first) is a start like any other.
        options: the recipe's ``model``; its ``pooling`` decides between stock and pooled.
        num_labels: outputs of the head.
        id2label: label of each output.
        problem_type: single_label_classification or regression.
        head_hidden: units of hidden layers of a pooled head.
        quantization: a transformers quantization configuration, for the base of an adapter.

    Raises:
        ModelError: not a text model, or weights that do not fit.
    """
    labels: dict[str, Any] = {
        "id2label": dict(id2label),
        "label2id": {label: index for index, label in id2label.items()},
        "problem_type": problem_type,
    }
    if source.is_adapter:
        return _with_head(load_classifier(source, options), num_labels, labels, source)
    pooling = load.declared_pooling(source) if options.pooling == "auto" else options.pooling
    is_pooled = source.read_json("config.json").get("model_type") == load.POOLED_MODEL_TYPE
    if is_pooled and options.pooling in ("auto", pooling):
        return _with_head(load_classifier(source, options), num_labels, labels, source)
    if pooling is None or pooling == "stock":
        return _stock(source, options, labels, quantization)
    if quantization is not None:
        raise ModelError(
            f"{source.name}: 4-bit weights need the architecture's own head",
            expected="model.pooling=stock",
            found=f"model.pooling={options.pooling} ({pooling})",
            fix="set model.pooling=stock, or strategy.quantize_4bit=false",
        )
    encoder = load.load_encoder(source, options)
    config = PooledClassifierConfig(
        encoder_config=encoder.config,
        pooling=pooling,
        head_hidden=head_hidden,
        classifier_dropout=options.dropout,
        pad_token_id=_pad_token(source, options, encoder.config),
        dtype=encoder.dtype,
        **labels,
    )
    model = PooledClassifier(config, encoder)
    declare_base(model, source)
    return model


def _pad_token(source: ModelSource, options: ModelOptions, config: PretrainedConfig) -> int | None:
    found = getattr(config, "pad_token_id", None)
    return found if found is not None else load.load_tokenizer(source, options).pad_token_id


def _stock(
    source: ModelSource, options: ModelOptions, labels: dict[str, Any], quantization: Any
) -> PreTrainedModel:
    """The architecture's own sequence classifier."""
    config = load.load_config(source, options)
    load.require_text_model(source, config, head=True)
    had_head = any("ForSequenceClassification" in name for name in config.architectures or ())
    other_size = config.num_labels != len(labels["id2label"])
    if had_head:
        _tell_head(source, config.id2label, labels["id2label"], kept=not other_size)
    for name, value in labels.items():
        setattr(config, name, value)
    if getattr(config, "pad_token_id", None) is None:
        config.pad_token_id = _pad_token(source, options, config)
    arguments = load.model_arguments(config, options)
    if quantization is not None:
        arguments["quantization_config"] = quantization
    with load.loading(source, options):
        model, info = AutoModelForSequenceClassification.from_pretrained(
            source.folder, ignore_mismatched_sizes=had_head and other_size, **arguments
        )
    load.check_loaded(source, info, body=f"{model.base_model_prefix}.")
    declare_base(model, source)
    return model


def _tell_head(source: ModelSource, old: Any, new: Mapping[int, str], *, kept: bool) -> None:
    """Say what becomes of a trained head whose labels are others than ours."""
    if not kept:
        notice(f"{source.name}: its head has {len(old)} outputs; one with {len(new)} starts at random values")
    elif list(old.values()) != list(new.values()) and not str(old.get(0, "")).startswith("LABEL_"):
        notice(
            f"{source.name}: its head, trained for the labels {', '.join(old.values())}, "
            f"is the start for {', '.join(new.values())}, in this order"
        )


def _with_head(
    model: PreTrainedModel, num_labels: int, labels: dict[str, Any], source: ModelSource
) -> PreTrainedModel:
    """Give a loaded classifier other labels: the head it has, or a fresh one of another size."""
    kept = model.config.num_labels == num_labels
    _tell_head(source, model.config.id2label, labels["id2label"], kept=kept)
    for name, value in labels.items():
        setattr(model.config, name, value)
    if not kept:
        model.num_labels = num_labels  # type: ignore[assignment]
        path, old = [
            (name, module) for name, module in model.named_modules() if isinstance(module, nn.Linear)
        ][-1]
        new = nn.Linear(old.in_features, num_labels, bias=old.bias is not None).to(old.weight)
        nn.init.normal_(new.weight, std=getattr(model.config, "initializer_range", 0.02))
        if new.bias is not None:
            nn.init.zeros_(new.bias)
        model.set_submodule(path, new)
    declare_base(model, source)
    return model


def classifier_from_head(
    embedder: Embedder,
    layers: Sequence[tuple[NDArray, NDArray]],
    task: Any,
    *,
    transform: tuple[NDArray, NDArray] | None = None,
    kernel: tuple[NDArray, float] | None = None,
) -> PooledClassifier:
    """Join a frozen encoder and a head fitted on its embeddings into one classifier.

    Args:
        embedder: what made the embeddings; its pooling, layer and normalisation are taken over.
        layers: (weight [out, in], bias [out]) pairs with ReLU between them.
        task: with ``names`` (the classes) and ``objective`` ("classification" or "regression").
        transform: (weight [k, d], bias [k]) of an affine map between embedding and head.
        kernel: (landmarks [r, k], bandwidth) of a Gaussian kernel between that and the head.
    """
    layer = embedder.layer
    if layer == "all" or isinstance(layer, tuple):
        raise ModelError(
            "a classifier reads one layer",
            expected='an index, "last" or "mean"',
            found=str(layer),
            fix="choose one",
        )
    is_rating = task.objective == "regression"
    id2label = {0: "rating"} if is_rating else {index: str(name) for index, name in enumerate(task.names)}
    config = PooledClassifierConfig(
        encoder_config=embedder.encoder.config,
        pooling=embedder.pooling,
        layer=layer,
        normalize=embedder.normalize,
        transform_dim=None if transform is None else len(transform[1]),
        kernel_landmarks=None if kernel is None else len(kernel[0]),
        kernel_bandwidth=1.0 if kernel is None else kernel[1],
        head_hidden=[len(bias) for _, bias in layers[:-1]],
        id2label=id2label,
        label2id={label: index for index, label in id2label.items()},
        problem_type="regression" if is_rating else "single_label_classification",
        pad_token_id=embedder.tokenizer.pad_token_id,
        dtype=embedder.encoder.dtype,
    )
    model = PooledClassifier(config, embedder.encoder)
    linear = [module for module in model.classifier.modules() if isinstance(module, nn.Linear)]
    pairs = list(zip(linear, layers, strict=True))
    if transform is not None:
        pairs.append((model.transform, transform))
    with torch.no_grad():
        for module, (weight, bias) in pairs:
            module.weight.copy_(torch.as_tensor(weight))
            module.bias.copy_(torch.as_tensor(bias))
        if kernel is not None:
            model.landmarks.copy_(torch.as_tensor(kernel[0]))
    if embedder.source is not None:
        declare_base(model, embedder.source)
    return model.eval()


def declare_base(model: PreTrainedModel, source: ModelSource) -> None:
    """Write where the model came from into it, by the name that another machine can find it under."""
    model.name_or_path = source.name
    model.config._name_or_path = source.name


def save_classifier(model: PreTrainedModel | PeftModel, folder: str | Path) -> None:
    """Save a classifier, or an adapter with the configuration of the classifier that it adapts.

    An adapter's folder loads in plain peft where its base has a stock head, by ``load_classifier`` always.
    """
    folder = Path(folder)
    if not hasattr(model, "peft_config"):
        with load.quiet():
            model.save_pretrained(str(folder))
        return
    adapter: Any = model
    adapter.save_pretrained(str(folder), save_embedding_layers=False)
    config = adapter.get_base_model().config
    text = json.dumps(
        {"model_type": config.model_type, **json.loads(config.to_json_string(use_diff=False))}, indent=2
    )
    (folder / load.ADAPTER_CLASSIFIER).write_text(text + "\n", encoding="utf-8")


def load_classifier(
    folder: str | Path | ModelSource, options: ModelOptions | None = None, *, merge: bool = True
) -> PreTrainedModel:
    """Load a classifier that ``save_classifier`` (or ``save_pretrained``) wrote: stock, pooled or an adapter.

    Args:
        folder: the folder, a run folder, a hub id, or a located source.
        options: how to load (type, attention); its ``name`` is not used.
        merge: fold an adapter into its base; False: return the ``PeftModel``.

    Raises:
        ModelError: what cannot be loaded; an adapter whose base is gone.
    """
    options = options or ModelOptions(dtype="auto")
    if not isinstance(folder, ModelSource):
        folder = load.locate(options.model_copy(update={"name": str(folder), "revision": None}))
    if folder.is_adapter:
        return _load_adapter(folder, options, merge)
    config = load.load_config(folder, options)
    if config.model_type != load.POOLED_MODEL_TYPE:
        load.require_text_model(folder, config, head=True)
    with load.loading(folder, options):
        model, info = AutoModelForSequenceClassification.from_pretrained(
            folder.folder, **load.model_arguments(config, options)
        )
    load.check_loaded(folder, info, body=f"{model.base_model_prefix}.")
    _check_head(folder, info)
    return model


def _check_head(source: ModelSource, info: dict[str, Any]) -> None:
    """Refuse an encoder that nobody has trained to classify: its head would have random weights."""
    absent = sorted(str(key) for key in info["missing_keys"] if "pooler" not in str(key).split("."))
    if absent:
        raise ModelError(
            f"{source.name}: no classification head: this model was not trained to classify",
            expected="the folder of a run, or a model with a head for text classification",
            found=f"no weights for {', '.join(absent[:3])}",
            fix="train it first: nlp-transfer train RECIPE",
        )


def _load_adapter(source: ModelSource, options: ModelOptions, merge: bool) -> Any:
    from peft import PeftModel

    saved = source.read_json(load.ADAPTER_CLASSIFIER)
    base = load.base_of(source, options)
    if not saved:
        header, _ = read_header(source.folder / ADAPTER_WEIGHTS)
        heads = [
            entry["shape"][0] for name, entry in header.items() if name.endswith(".weight") and _is_head(name)
        ]
        saved = {"id2label": {index: f"LABEL_{index}" for index in range(heads[-1] if heads else 2)}}
    id2label = {int(index): label for index, label in saved["id2label"].items()}
    is_pooled = saved.get("model_type") == load.POOLED_MODEL_TYPE
    problem: Any = saved.get("problem_type") or (
        "regression" if len(id2label) == 1 else "single_label_classification"
    )
    model = build_classifier(
        base,
        options.model_copy(update={"pooling": saved["pooling"] if is_pooled else "stock"}),
        num_labels=len(id2label),
        id2label=id2label,
        problem_type=problem,
        head_hidden=saved.get("head_hidden", ()),
    )
    with load.loading(source, options):
        adapted = PeftModel.from_pretrained(model, str(source.folder), is_trainable=not merge)
        return adapted.merge_and_unload() if merge else adapted


def _is_head(name: str) -> bool:
    return any(part in ("classifier", "score", "classification_head") for part in name.split("."))


def start_at(model: PreTrainedModel, value: float) -> None:
    """Set the zero bias of a fresh one-output head; a trained bias, or a head without one, is left alone."""
    heads = [
        module
        for module in model.modules()
        if isinstance(module, torch.nn.Linear) and module.out_features == 1
    ]
    if heads and heads[-1].bias is not None and not heads[-1].bias.any():
        with torch.no_grad():
            heads[-1].bias.fill_(value)
