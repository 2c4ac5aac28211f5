"""The AUC table, the comparison of two models, and Table 1."""
