"""Synthetic radiographs: anatomy, findings, cohort, rendering."""
