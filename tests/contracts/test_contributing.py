"""The worked example of CONTRIBUTING.md is true to the code."""

import re
import sys
from pathlib import Path

from transformers import AutoModelForSequenceClassification

from nlp_transfer.options import Options
from nlp_transfer.strategies import Strategy
from tests.strategies.test_layers import CONFIGS

ROOT = Path(__file__).parents[2]


def test_the_example_strategy_works(tmp_path, monkeypatch):
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    code = re.search(r"```python\n(.*?)```", text, re.DOTALL)[1]
    (tmp_path / "bitfit_example.py").write_text(
        re.sub(r"^   ", "", code, flags=re.MULTILINE), encoding="utf-8"
    )
    monkeypatch.syspath_prepend(tmp_path)
    import bitfit_example

    strategy = bitfit_example.BitFit(bitfit_example.BitFitOptions())
    assert isinstance(strategy, Strategy)
    assert isinstance(strategy.options, Options)
    model = strategy.prepare(AutoModelForSequenceClassification.from_config(CONFIGS["bert"]))
    moving = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert moving == {
        name for name in dict(model.named_parameters()) if "bias" in name or "classifier" in name
    }
    sys.modules.pop("bitfit_example")
