"""Command-line arguments common to several benchmarks."""

import argparse


def positive(text: str) -> int:
    if not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r}: expected at least 1")
    return int(text)
