"""What `baselines.py` is made of: models, cells and the picture."""
