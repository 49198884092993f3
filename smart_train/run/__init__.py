"""A run: train dense, prune by a method's name, compress, measure, save, report."""
