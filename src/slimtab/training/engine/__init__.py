"""Where a training runs: in one process, or in many that share its rows and its batches."""
