"""Raw files to what training reads."""
