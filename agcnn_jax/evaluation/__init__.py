"""From probabilities to tables, figures and the report."""
