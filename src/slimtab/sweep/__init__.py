"""Sweeps: any setting as a search space, in an Optuna study."""
