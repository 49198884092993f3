"""Pruning inside other people's training loops; each module imports its library, which an extra brings.

transformers   SmartCallback for Trainer                  pip install smart-kernels[transformers]
lightning      SmartCallback for Lightning's Trainer      pip install smart-kernels[lightning]
"""
