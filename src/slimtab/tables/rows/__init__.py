"""Where vectors live: matrices of rows, read by number, trained plainly or moving themselves."""
