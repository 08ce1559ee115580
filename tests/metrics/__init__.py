"""Metrics: against plain NumPy, and the same bits however the samples are shared."""
