"""What `reproduce.py` is made of: tables, tasks, methods, cells and pictures."""
