"""Preparing a dataset from NIH's files."""
