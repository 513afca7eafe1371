"""The tiny recipes of the engine's tests."""

from tests.training.conftest import bert, data, encoder, make_recipe

__all__ = ["bert", "data", "encoder", "make_recipe"]
