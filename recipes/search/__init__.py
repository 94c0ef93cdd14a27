"""Spaces, oracles, trials and results of `tune.py`."""
