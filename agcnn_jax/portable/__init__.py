"""The whole model as one file for programs without this package."""
