"""Annotations of any form: maps of values, COCO, QuPath and ImageJ shapes, read as instances and classes in boxes."""
