"""Choosing before training: which pretrained model suits a target."""
