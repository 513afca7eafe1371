"""ONNX: a classifier as a graph from token ids and mask to logits."""

from __future__ import annotations

import contextlib
import logging
import warnings
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from nlp_transfer.errors import MissingExtraError

_PACKAGES = ("onnx", "onnxruntime", "onnxscript")


def write_graph(model: Any, graph: Path, *, int8: bool) -> None:
    """Trace a classifier, pooling included, for any number of texts and tokens.

    Args:
        model: float32, on the CPU; its attention becomes the eager one.
        graph: the file to write.
        int8: 8-bit weights in place of float32.

    Raises:
        MissingExtraError: onnx, onnxruntime or onnxscript is not installed.

    Cost: about 10 s.
    """
    import torch

    for package in _PACKAGES:
        if find_spec(package) is None:
            raise MissingExtraError(package, "export", "the format onnx")
    model.set_attn_implementation("eager")
    ids = torch.randint(5, 20, (2, 7))
    mask = torch.ones_like(ids)
    mask[1, 4:] = 0
    axes = {0: torch.export.Dim("batch"), 1: torch.export.Dim("tokens")}
    with _silence():
        torch.onnx.export(
            _logits_module(model),
            (ids, mask),
            str(graph),
            dynamo=True,
            dynamic_shapes=(axes, axes),
            input_names=["input_ids", "attention_mask"],
            output_names=["logits"],
            external_data=_bytes(model) > 1_500_000_000,
            verbose=False,
        )
        if int8:
            _quantize(graph)


def session(graph: Path) -> Any:
    """An onnxruntime session on the CPU, with as many threads as torch."""
    import onnxruntime
    import torch

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    return onnxruntime.InferenceSession(str(graph), options, providers=["CPUExecutionProvider"])


def _logits_module(model: Any) -> Any:
    """The model as a module from ids and mask to logits."""
    import torch

    class Logits(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, input_ids: Any, attention_mask: Any) -> Any:
            return self.model(input_ids=input_ids, attention_mask=attention_mask).logits

    return Logits().eval()


def _quantize(graph: Path) -> None:
    """8-bit weights in place of float32."""
    from onnxruntime.quantization import quantize_dynamic

    whole = graph.with_name("whole.onnx")
    graph.rename(whole)
    quantize_dynamic(whole, graph)
    whole.unlink()


def _bytes(model: Any) -> int:
    return sum(parameter.numel() * parameter.element_size() for parameter in model.parameters())


@contextlib.contextmanager
def _silence() -> Iterator[None]:
    """Keep the exporters' remarks off the screen."""
    disabled = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(disabled)
