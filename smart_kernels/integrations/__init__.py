"""Other people's formats of models; each module imports its library, which an extra brings.

transformers   save_pretrained and from_pretrained        pip install smart-kernels[transformers]
"""
