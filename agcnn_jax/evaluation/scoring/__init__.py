"""What an evaluation computes from labels and predictions, before anything is shown."""
