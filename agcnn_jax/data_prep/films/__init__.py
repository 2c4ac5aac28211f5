"""Preparing a data set from films in any folder and a table of labels."""
