"""Tables of how well boxes are found."""
