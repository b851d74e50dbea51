"""From a trained model to predictions on raw rows."""
