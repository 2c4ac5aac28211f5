"""Reading tables of labels, whatever collection they are of."""
