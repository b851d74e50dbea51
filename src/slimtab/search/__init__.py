"""Search: widths and rows by evolution."""
