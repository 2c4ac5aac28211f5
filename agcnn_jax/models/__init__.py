"""Backbones and the three branches of AG-CNN."""
