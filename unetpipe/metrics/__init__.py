"""Measures of agreement between a prediction and the truth, from integer tables that are summed before any division."""
