"""The definition of every op in plain PyTorch: its CPU path and what tests compare with."""
