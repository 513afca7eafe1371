"""Pretrained models: find, load, classify with, embed with."""
