"""What a run shows of itself: progress, TensorBoard, comparisons, plots."""
