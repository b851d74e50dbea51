"""Training: the loop, checkpoints, optimizers, metrics."""
