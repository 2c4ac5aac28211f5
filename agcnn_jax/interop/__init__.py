"""Import and export of PyTorch weights."""

DESCRIPTION = "weights.json"
"""The file that describes converted weights, in their folder."""
