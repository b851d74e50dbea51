"""What methods are made of: packing, sketches, clustering; nothing here is a method."""
