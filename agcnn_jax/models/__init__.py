"""The backbones and the three branches of AG-CNN."""
