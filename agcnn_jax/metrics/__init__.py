"""Statistics of predictions against labels, in numpy."""
