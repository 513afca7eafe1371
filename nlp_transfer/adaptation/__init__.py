"""How the source, or unlabelled target text, helps the target: one class a method, one line in this table."""

from nlp_transfer.adaptation.base import Adaptation, AdaptationOptions, DomainFeatures, Setting, misfits
from nlp_transfer.adaptation.instance import (
    DensityRatio,
    DensityRatioOptions,
    LabelShift,
    LabelShiftOptions,
)

ADAPTATIONS: dict[str, tuple[type[Adaptation], type[AdaptationOptions]]] = {
    "density_ratio": (DensityRatio, DensityRatioOptions),
    "label_shift": (LabelShift, LabelShiftOptions),
}

__all__ = ["ADAPTATIONS", "Adaptation", "AdaptationOptions", "DomainFeatures", "Setting", "misfits"]
