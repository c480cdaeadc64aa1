"""Training an adapter: one stretch of steps on given rows, from a checkpoint to a checkpoint."""
