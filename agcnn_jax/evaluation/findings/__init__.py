"""Measures of each finding, in subgroups, and against radiologists."""
