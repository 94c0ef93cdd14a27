"""The parts of `baselines.py`: models, cells and the picture."""
