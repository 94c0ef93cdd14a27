"""The parts of `loss_study.py`: toys, stacks of networks, cells, findings and pictures."""
