"""Use of a trained model: on films, from the command line and from Python."""
