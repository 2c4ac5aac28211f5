"""The whole model as one program for use without its training code."""
