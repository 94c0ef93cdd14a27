"""What `loss_study.py` is made of: toys, stacks of networks, cells, findings and pictures."""
