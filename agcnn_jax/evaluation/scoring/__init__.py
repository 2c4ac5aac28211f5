"""Everything that an evaluation computes from labels and predictions, before it is shown."""
