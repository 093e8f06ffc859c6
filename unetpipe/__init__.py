"""U-Net segmentation of microscopy, from a sample sheet to segmented whole slides."""

__version__ = "0.1.0"
