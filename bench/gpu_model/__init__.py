"""Predicts the time of the CUDA kernels from counts of what they execute; needs no GPU.

    python -m bench.gpu_model --help

docs/gpu_model.md explains the counting, the prediction rule and what neither of them sees.
"""
