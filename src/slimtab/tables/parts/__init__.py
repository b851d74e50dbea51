"""What methods are made of: packing, sketches, clustering, rows of other kinds; nothing here is a method."""
