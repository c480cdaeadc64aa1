"""Features of the pool and the clusters made from them."""
