"""Phantoms, which are synthetic chest radiographs: cohort, anatomy, findings, film."""
