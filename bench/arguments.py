"""What the command lines of several benchmarks accept."""

import argparse


def positive(text: str) -> int:
    if not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r}: expected at least 1")
    return int(text)
