"""An encoder with pooling and a plain head, as a transformers model.

Importing this module registers it, so that ``pipeline("text-classification", model=folder)`` and
``AutoModelForSequenceClassification`` load it.
"""

from __future__ import annotations

import inspect
import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForSequenceClassification,
    AutoModelForTextEncoding,
    PretrainedConfig,
    PreTrainedModel,
)
from transformers.modeling_outputs import SequenceClassifierOutput

from nlp_transfer.models import load
from nlp_transfer.models.pooling import Pooling, pool_layers
from nlp_transfer.numeric.kernels import rbf_kernel


class PooledClassifierConfig(PretrainedConfig):
    """Configuration of ``PooledClassifier``.

    Args:
        encoder_config: the encoder's configuration, or its dict.
        pooling: mean, cls or last.
        layer: hidden layer that is pooled: an index, "last", or "mean" over all.
        normalize: scale the pooled vector to length one.
        transform_dim: size k of a learned or given affine map d -> k before the head, or None.
        kernel_landmarks: number r of landmarks that the vector is compared with: the head then takes the r
            values of a Gaussian kernel; None: no kernel.
        kernel_bandwidth: of that kernel, a distance.
        head_hidden: units of the head's hidden ReLU layers; empty: a linear head.
        classifier_dropout: before the head; None: what the encoder's configuration says, else 0.1.
        initializer_range: standard deviation of fresh head weights.
        kwargs: ``num_labels``, ``id2label``, ``problem_type`` and the rest of ``PretrainedConfig``.
    """

    model_type = load.POOLED_MODEL_TYPE
    sub_configs = {"encoder_config": AutoConfig}

    def __init__(
        self,
        encoder_config: PretrainedConfig | dict[str, Any] | None = None,
        pooling: Pooling = "mean",
        layer: int | Literal["last", "mean"] = "last",
        normalize: bool = False,
        transform_dim: int | None = None,
        kernel_landmarks: int | None = None,
        kernel_bandwidth: float = 1.0,
        head_hidden: Sequence[int] = (),
        classifier_dropout: float | None = None,
        initializer_range: float = 0.02,
        **kwargs: Any,
    ) -> None:
        if encoder_config is None or isinstance(encoder_config, Mapping):
            fields = dict(encoder_config or {})
            encoder_config = AutoConfig.for_model(fields.pop("model_type", "bert"), **fields)
        self.pooling, self.layer, self.normalize = pooling, layer, normalize
        self.transform_dim, self.head_hidden = transform_dim, list(head_hidden)
        self.kernel_landmarks, self.kernel_bandwidth = kernel_landmarks, kernel_bandwidth
        self.classifier_dropout, self.initializer_range = classifier_dropout, initializer_range
        self.pad_token_id = kwargs.pop("pad_token_id", getattr(encoder_config, "pad_token_id", None))
        self.encoder_config = encoder_config
        # the base class writes this value into every sub-configuration, and the encoder may be a loaded one
        kwargs.setdefault("attn_implementation", getattr(encoder_config, "_attn_implementation", None))
        super().__init__(**kwargs)

    def get_text_config(self, decoder: bool | None = None, encoder: bool | None = None) -> PretrainedConfig:
        """The encoder's configuration: it holds the vocabulary and hidden size."""
        return self.encoder_config


@dataclass
class PooledClassifierOutput(SequenceClassifierOutput):
    """The usual output of a classifier, and ``features``: the input of the head, [n, k], where asked for."""

    features: Tensor | None = None


class PooledClassifier(PreTrainedModel):
    """Encoder, pooling, optional scaling to length one, affine map and kernel, dropout, head."""

    config_class = PooledClassifierConfig
    supports_gradient_checkpointing = True
    accepts_loss_kwargs = False
    _supports_sdpa = _supports_flash_attn = _supports_flex_attn = _supports_attention_backend = True

    def __init__(self, config: PooledClassifierConfig, encoder: PreTrainedModel | None = None) -> None:
        super().__init__(config)
        self.num_labels = config.num_labels
        if encoder is None:
            auto = AutoModelForTextEncoding if load.is_encoder_half(config.encoder_config) else AutoModel
            encoder = auto.from_config(config.encoder_config)
        else:
            for module in encoder.modules():
                module._is_hf_initialized = True  # type: ignore[assignment]
        if "add_pooling_layer" in inspect.signature(type(encoder).__init__).parameters:
            encoder.pooler = None  # unused here, and DDP refuses parameters without a gradient
        if getattr(encoder.config, "use_cache", False):
            encoder.config.use_cache = False
        config.encoder_config = encoder.config
        self.encoder = encoder
        self._accepts = frozenset(inspect.signature(encoder.forward).parameters)
        size = encoder.config.get_text_config().hidden_size
        if config.transform_dim is not None:
            self.transform = nn.Linear(size, config.transform_dim)
            size = config.transform_dim
        if config.kernel_landmarks is not None:
            self.landmarks = nn.Parameter(torch.zeros(config.kernel_landmarks, size))
            size = config.kernel_landmarks
        self.dropout = nn.Dropout(_head_dropout(config))
        sizes = [size, *config.head_hidden, config.num_labels]
        layers: list[nn.Module] = []
        for inner, outer in itertools.pairwise(sizes):
            layers += [nn.Linear(inner, outer), nn.ReLU()]
        self.classifier = layers[0] if len(sizes) == 2 else nn.Sequential(*layers[:-1])
        self.post_init()
        for module in self.children():
            if module is not encoder:
                module.to(dtype=encoder.dtype, device=encoder.device)
        if config.kernel_landmarks is not None:
            self.landmarks.data = self.landmarks.data.to(dtype=encoder.dtype, device=encoder.device)

    def get_input_embeddings(self) -> nn.Module:
        """The encoder's token embeddings."""
        return self.encoder.get_input_embeddings()

    def set_input_embeddings(self, value: nn.Module) -> None:
        """Replace the encoder's token embeddings."""
        self.encoder.set_input_embeddings(value)

    def features(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        **kwargs: Any,
    ) -> Tensor:
        """Pooled vectors [n, k], before dropout and head."""
        return self._encode(input_ids, attention_mask, token_type_ids, **kwargs)[0]

    def _encode(
        self,
        input_ids: Tensor | None,
        attention_mask: Tensor | None,
        token_type_ids: Tensor | None,
        **kwargs: Any,
    ) -> tuple[Tensor, Any]:
        config = self.config
        inputs = {
            "input_ids": input_ids,
            "attention_mask": attention_mask,
            "token_type_ids": token_type_ids,
            **kwargs,
        }
        inputs = {
            key: value for key, value in inputs.items() if value is not None and _takes(self._accepts, key)
        }
        if config.layer != "last":
            inputs["output_hidden_states"] = True
        outputs = self.encoder(**inputs, return_dict=True)
        vectors = pool_layers(outputs, attention_mask, config.pooling, config.layer)
        if config.normalize:
            vectors = functional.normalize(vectors, dim=-1)
        if config.transform_dim is not None:
            vectors = self.transform(vectors)
        if config.kernel_landmarks is not None:
            similar = rbf_kernel(vectors, self.landmarks, config.kernel_bandwidth)
            vectors = similar.to(vectors.dtype)
        return vectors, outputs

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
        return_features: bool = False,
    ) -> PooledClassifierOutput | tuple[Tensor, ...]:
        """Logits [n, num_labels]; with ``labels`` the mean loss; with ``return_features`` the head's input.

        Args:
            input_ids: [n, t].
            attention_mask: [n, t], padding on either side.
            token_type_ids: dropped where the encoder has none.
            inputs_embeds: instead of ``input_ids``.
            labels: class numbers [n], or ratings [n] for ``problem_type="regression"``.
            output_attentions: return the encoder's attentions.
            output_hidden_states: return the encoder's hidden states.
            return_dict: False for a tuple.
            return_features: also return the vectors that go into the head.
        """
        vectors, outputs = self._encode(
            input_ids,
            attention_mask,
            token_type_ids,
            inputs_embeds=inputs_embeds,
            output_attentions=output_attentions or None,
            output_hidden_states=output_hidden_states or None,
        )
        logits = self.classifier(self.dropout(vectors))
        result = PooledClassifierOutput(
            loss=None if labels is None else self._loss(logits, labels),
            logits=logits,
            hidden_states=outputs.hidden_states if output_hidden_states else None,
            attentions=outputs.attentions if output_attentions else None,
            features=vectors if return_features else None,
        )
        return result.to_tuple() if return_dict is False else result

    def _loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        if self.config.problem_type == "regression":
            return functional.mse_loss(logits.float().view(-1), labels.float().view(-1))
        return functional.cross_entropy(logits.float(), labels.view(-1))


def _takes(accepts: frozenset[str], name: str) -> bool:
    return name in accepts or name in ("output_attentions", "output_hidden_states")


def _head_dropout(config: PooledClassifierConfig) -> float:
    if config.classifier_dropout is not None:
        return config.classifier_dropout
    for name in (
        "classifier_dropout",
        "seq_classif_dropout",
        "hidden_dropout_prob",
        "dropout_rate",
        "dropout",
    ):
        found = getattr(config.encoder_config, name, None)
        if isinstance(found, int | float) and not isinstance(found, bool):
            return float(found)
    return 0.1


AutoConfig.register(load.POOLED_MODEL_TYPE, PooledClassifierConfig, exist_ok=True)
AutoModelForSequenceClassification.register(PooledClassifierConfig, PooledClassifier, exist_ok=True)
