"""From the NIH's files to a store."""
