"""Configurations: small Python files to fork."""
