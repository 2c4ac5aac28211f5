"""Import and export of PyTorch weights."""
