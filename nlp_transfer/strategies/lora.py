"""LoRA adapters through peft."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from nlp_transfer.errors import MissingExtraError, ModelError
from nlp_transfer.options import Options
from nlp_transfer.strategies.base import Strategy
from nlp_transfer.strategies.layers import layer_stacks, writes

if TYPE_CHECKING:
    from torch import nn
    from transformers import PreTrainedModel


class LoraOptions(Options):
    """Low-rank adapters on a frozen base; a classifier's head is trained with them."""

    kind: Literal["lora"] = "lora"
    r: int = Field(default=16, ge=1)
    """Rank of the update."""
    alpha: int = Field(default=32, ge=1)
    """The update is scaled by alpha / r (alpha / sqrt(r) with rslora)."""
    dropout: float = Field(default=0.0, ge=0, lt=1)
    """Dropout on the adapter's input."""
    rslora: bool = False
    """Rank-stabilised scaling (Kalajdzievski 2023)."""
    dora: bool = False
    """Weight-decomposed adaptation (Liu et al. 2024)."""
    target_modules: Literal["all-linear", "attention"] | list[str] = "all-linear"
    """Which linear layers get an adapter: all inside the transformer layers, those of attention (in a decoder
    both kinds), or names."""
    modules_to_save: list[str] | None = None
    """Further modules trained in full and saved with the adapter; the head always is."""
    quantize_4bit: bool = False
    """Load the frozen base in 4 bit (QLoRA; needs CUDA and bitsandbytes)."""


HEADS = ("classifier", "score", "classification_head")
"""Names of the heads that Hugging Face's sequence classifiers use."""


class Lora(Strategy[LoraOptions]):
    """Train low-rank updates of the linear layers (Hu et al. 2021, equation 3), and a classifier's head."""

    summary = "low-rank adapters (LoRA, DoRA, rsLoRA) on a frozen base, through peft"
    default_learning_rate = 5e-4

    def prepare(self, model: PreTrainedModel) -> nn.Module:
        """Wrap the model with peft; the head goes to ``modules_to_save`` so that it survives a reload.

        Raises:
            ModelError: a name in ``target_modules`` matches nothing in this architecture.
            MissingExtraError: ``quantize_4bit`` without bitsandbytes.
        """
        from peft import LoraConfig, TaskType, get_peft_model, prepare_model_for_kbit_training

        options = self.options
        if getattr(model, "is_loaded_in_4bit", False):
            model = prepare_model_for_kbit_training(model)
        heads = [name for name in HEADS if hasattr(model, name)]
        modules = heads + [name for name in options.modules_to_save or () if name not in heads]
        config = LoraConfig(
            task_type=TaskType.SEQ_2_SEQ_LM if writes(model) else TaskType.SEQ_CLS,
            r=options.r,
            lora_alpha=options.alpha,
            lora_dropout=options.dropout,
            use_rslora=options.rslora,
            use_dora=options.dora,
            target_modules=self.find_targets(model),
            modules_to_save=modules or None,
        )
        return get_peft_model(model, config)

    def find_targets(self, model: nn.Module) -> list[str]:
        """Names of the linear layers that get an adapter, relative to their transformer layer.

        Raises:
            ModelError: nothing matches.
        """
        linear = _linear_names(model)
        wanted = self.options.target_modules
        if wanted == "all-linear":
            targets = linear
        elif wanted == "attention":
            targets = [name for name in linear if "attn" in name.lower() or "attention" in name.lower()]
        else:
            missing = [name for name in wanted if not any(_ends_with(full, name) for full in linear)]
            if missing:
                raise ModelError(
                    f"strategy.target_modules: {', '.join(missing)} not found in {type(model).__name__}",
                    expected=f"some of: {', '.join(linear)}",
                    found=", ".join(missing),
                    fix='use these names, or "all-linear" or "attention"',
                )
            targets = list(wanted)
        return targets

    def quantization_config(self) -> Any:
        """The 4-bit configuration for loading the base, or None.

        Raises:
            ModelError: no CUDA device.
            MissingExtraError: bitsandbytes is not installed.
        """
        if not self.options.quantize_4bit:
            return None
        import importlib.util

        import torch

        if not torch.cuda.is_available():
            raise ModelError(
                "strategy.quantize_4bit needs a CUDA device",
                expected="a CUDA GPU with bitsandbytes",
                found="no CUDA device",
                fix="set strategy.quantize_4bit=false, or run on a GPU machine",
            )
        if importlib.util.find_spec("bitsandbytes") is None:
            raise MissingExtraError("bitsandbytes", "quantize", "strategy.quantize_4bit")
        from transformers import BitsAndBytesConfig

        return BitsAndBytesConfig(
            load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=torch.bfloat16
        )


def _linear_names(model: nn.Module) -> list[str]:
    """Linear modules inside the transformer layers, named relative to their layer, without repeats."""
    from torch import nn
    from transformers.pytorch_utils import Conv1D

    stacks = layer_stacks(model)
    names: dict[str, None] = {}
    for path, module in model.named_modules():
        stack = next((stack for stack in stacks if path.startswith(f"{stack}.")), None)
        if stack is not None and isinstance(module, (nn.Linear, Conv1D)):
            names[path[len(stack) + 1 :].split(".", 1)[1]] = None
    return list(names)


def _ends_with(full: str, name: str) -> bool:
    return full == name or full.endswith(f".{name}")
