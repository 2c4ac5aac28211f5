"""Statistics of predictions against labels, in numpy."""

RULES = ("youden", "specificity_0.9", "sensitivity_0.9")
"""The ways to choose a threshold: by the largest Youden's index (sensitivity + specificity - 1), by
the largest sensitivity with a specificity of at least 0.9, or by the largest specificity with a
sensitivity of at least 0.9."""
