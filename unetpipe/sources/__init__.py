"""Source images, of any format, and the files that they are made of."""
