"""The parts of a run, and its origin."""
