"""The first run on a GPU, taken before ``gpu-check`` could take it, as rows like all others.

``python -m bench.first_run ROWS.jsonl MEASURES.jsonl bench/results/nvidia-h200.jsonl``. What the files lack is filled
in: the device and the versions, and flops, bytes and floors, computed as the cases of ``bench`` do, all from one pair
of ceilings. The rate of the L2 cache was not measured in that run, so these floors have no such term.
"""
