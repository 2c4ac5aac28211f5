"""Training AG-CNN stage by stage (Section III-C)."""
