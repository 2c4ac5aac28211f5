"""Commands that prepare what training reads: phantoms, ChestX-ray14, PyTorch weights."""
