"""Tables, tasks, methods, cells and pictures of `reproduce.py`."""
