"""Files that other programs hand in: labels and predictions."""
