"""Secure aggregation without I/O: the sum of the survivors' words and nothing else (Bonawitz et al. 2017)."""
