"""Which weights move: one class a strategy, one line in this table."""

from nlp_transfer.strategies.base import Strategy
from nlp_transfer.strategies.frozen import Frozen, FrozenOptions
from nlp_transfer.strategies.full import Full, FullOptions
from nlp_transfer.strategies.lora import Lora, LoraOptions

STRATEGIES: dict[str, tuple[type[Strategy], type]] = {
    "full": (Full, FullOptions),
    "frozen": (Frozen, FrozenOptions),
    "lora": (Lora, LoraOptions),
}

__all__ = ["STRATEGIES", "Frozen", "FrozenOptions", "Full", "FullOptions", "Lora", "LoraOptions", "Strategy"]
