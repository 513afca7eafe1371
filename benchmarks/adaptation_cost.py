"""What a penalty adds to a training step beyond the passes of the target's rows through the encoder.

MiniLM-L6, batches of 16 source and 16 target texts of 64 tokens, forward and backward. Three kinds of steps
take turns, so that all meet the same machine: the source rows alone; both sides without a penalty (the
target's features are made, forward and backward, and count nothing); both sides with the penalty. Seconds
are processor seconds on one thread, medians over the rounds.

    python benchmarks/adaptation_cost.py [--rounds 7]
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from collections.abc import Callable

from common import print_table, save

ROWS, LENGTH = 16, 64
LIMIT = 0.15
METHODS = ("mmd", "deep_coral", "dann", "cdan")


def steps() -> dict[str, Callable[[], None]]:
    """One function a kind of step, on one model and one batch."""
    import torch

    from nlp_transfer.adaptation import ADAPTATIONS
    from nlp_transfer.adaptation.penalties import Alignment, Rows
    from nlp_transfer.models.classifier import build_classifier
    from nlp_transfer.models.load import ModelOptions, locate
    from nlp_transfer.training.adapt import feature_size
    from nlp_transfer.training.together import AdaptedModel

    class Nothing(Alignment):
        """The features are made, and their gradient is zero."""

        def distance(self, rows: Rows) -> torch.Tensor:
            return 0.0 * rows.layers[None].float().sum()

    torch.manual_seed(0)
    options = ModelOptions()
    model = build_classifier(
        locate(options),
        options,
        num_labels=2,
        id2label={0: "a", 1: "b"},
        problem_type="single_label_classification",
    )
    ids = torch.randint(1000, 20000, (2 * ROWS, LENGTH))
    labels = torch.arange(ROWS) % 2
    size = feature_size(model)
    penalties = {name: ADAPTATIONS[name][0](ADAPTATIONS[name][1]()).build(size, 2) for name in METHODS}
    penalties = {"no penalty": Nothing(1.0, "constant"), **penalties}

    def make(penalty: torch.nn.Module | None) -> Callable[[], None]:
        module = AdaptedModel(model, {} if penalty is None else {"penalty": penalty}).train()
        module.progress.fill_(0.5)
        rows = ids[0::2] if penalty is None else ids
        mask = torch.ones_like(rows)

        def step() -> None:
            out = module(input_ids=rows, attention_mask=mask)
            logits = out["logits"] if penalty is None else out["logits"][0::2]
            loss = torch.nn.functional.cross_entropy(logits, labels) + out["penalty"]
            loss.backward()
            module.zero_grad(set_to_none=True)

        return step

    return {"source rows alone": make(None), **{name: make(penalty) for name, penalty in penalties.items()}}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=7)
    options = parser.parse_args()
    import torch

    torch.set_num_threads(1)
    kinds = steps()
    seconds: dict[str, list[float]] = {name: [] for name in kinds}
    for round_ in range(options.rounds + 1):
        for name, step in kinds.items():
            started = time.process_time()
            step()
            if round_:
                seconds[name].append(time.process_time() - started)
    middle = {name: statistics.median(values) for name, values in seconds.items()}
    added = {
        name: statistics.median(a / b - 1 for a, b in zip(seconds[name], seconds["no penalty"], strict=True))
        for name in METHODS
    }
    rows = [[name, middle[name], f"{100 * added[name]:+.1f} %" if name in added else None] for name in kinds]
    print_table(
        f"{ROWS} + {ROWS} texts of {LENGTH} tokens", ["step", "seconds", "added by the penalty"], rows
    )
    save(
        "adaptation_cost",
        {
            "rows": ROWS,
            "length": LENGTH,
            "rounds": options.rounds,
            "seconds": middle,
            "added": added,
            "limit": LIMIT,
            "inside": {name: added[name] < LIMIT for name in ("mmd", "deep_coral")},
        },
    )


if __name__ == "__main__":
    os.environ["OMP_NUM_THREADS"] = "1"
    main()
