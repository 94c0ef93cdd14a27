"""What `tune.py` is made of: spaces, oracles, trials and results."""
