"""Reading films, splitting records, batching and augmenting them."""
