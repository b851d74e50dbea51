"""Raw rows: from files to datasets on disk, and from there to batches."""
