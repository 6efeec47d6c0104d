"""What answers are held against, and what runs CUDA kernels without a GPU."""

from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
