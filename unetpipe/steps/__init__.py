"""The stages, one function each: open, call, write."""
