"""Click models over a table collection: deepfm, dlrm, dcn."""
