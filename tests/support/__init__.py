"""Reference solutions for the tests, and tools that run CUDA kernels without a GPU."""

from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
