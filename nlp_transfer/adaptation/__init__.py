"""How the source, or unlabelled target text, helps the target: one class a method, one line in this table."""

from nlp_transfer.adaptation.adversarial import Cdan, CdanOptions, Dann, DannOptions
from nlp_transfer.adaptation.base import Adaptation, AdaptationOptions, DomainFeatures, Setting, misfits
from nlp_transfer.adaptation.discrepancy import CoralPenaltyOptions, DeepCoral, Mmd, MmdOptions
from nlp_transfer.adaptation.feature import (
    Coral,
    CoralOptions,
    FeatureSelection,
    FeatureSelectionOptions,
    OptimalTransport,
    OptimalTransportOptions,
    SubspaceAlignment,
    SubspaceAlignmentOptions,
    TransferComponentOptions,
    TransferComponents,
)
from nlp_transfer.adaptation.instance import (
    DensityRatio,
    DensityRatioOptions,
    KernelMeanMatching,
    KernelMeanMatchingOptions,
    Kliep,
    KliepOptions,
    LabelShift,
    LabelShiftOptions,
    TrAdaBoost,
    TrAdaBoostOptions,
)
from nlp_transfer.adaptation.pretraining import Pretraining, PretrainingOptions
from nlp_transfer.adaptation.propagation import LabelPropagation, LabelPropagationOptions
from nlp_transfer.adaptation.relational import (
    Distillation,
    DistillationOptions,
    Relational,
    RelationalOptions,
)
from nlp_transfer.adaptation.self_training import SelfTraining, SelfTrainingOptions

ADAPTATIONS: dict[str, tuple[type[Adaptation], type[AdaptationOptions]]] = {
    "density_ratio": (DensityRatio, DensityRatioOptions),
    "kmm": (KernelMeanMatching, KernelMeanMatchingOptions),
    "kliep": (Kliep, KliepOptions),
    "label_shift": (LabelShift, LabelShiftOptions),
    "tradaboost": (TrAdaBoost, TrAdaBoostOptions),
    "coral": (Coral, CoralOptions),
    "subspace_alignment": (SubspaceAlignment, SubspaceAlignmentOptions),
    "tca": (TransferComponents, TransferComponentOptions),
    "optimal_transport": (OptimalTransport, OptimalTransportOptions),
    "feature_selection": (FeatureSelection, FeatureSelectionOptions),
    "label_propagation": (LabelPropagation, LabelPropagationOptions),
    "mmd": (Mmd, MmdOptions),
    "deep_coral": (DeepCoral, CoralPenaltyOptions),
    "dann": (Dann, DannOptions),
    "cdan": (Cdan, CdanOptions),
    "distillation": (Distillation, DistillationOptions),
    "relational": (Relational, RelationalOptions),
    "pretraining": (Pretraining, PretrainingOptions),
    "self_training": (SelfTraining, SelfTrainingOptions),
}

__all__ = ["ADAPTATIONS", "Adaptation", "AdaptationOptions", "DomainFeatures", "Setting", "misfits"]
