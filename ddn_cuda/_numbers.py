"""Numbers as arguments: conversion to the built-in types, ranges, and messages."""

from __future__ import annotations

import math
import numbers
import sys
from typing import Any

import torch
from torch import Tensor


def number(value: Any) -> Any:
    """Converts a NumPy number, or another real number such as a Fraction, to the built-in type;
    returns any other value unchanged."""
    if isinstance(value, (int, Tensor)):
        return value
    if isinstance(value, numbers.Integral):
        return int(value)
    if not isinstance(value, numbers.Real):
        return value
    try:
        return float(value)
    except OverflowError:  # a Fraction
        return math.trunc(value)


def numbers_of(dim: Any) -> Any:
    """`number` of an argument that may be a tuple or list of numbers."""
    if not isinstance(dim, (tuple, list)):
        return number(dim)
    return (tuple if isinstance(dim, tuple) else list)(map(number, dim))


def is_beyond_float(value: Any) -> bool:
    """Whether value is an int that no float holds."""
    return isinstance(value, int) and abs(value) > sys.float_info.max


def shown(value: Any) -> str:
    """A value for a message."""
    if isinstance(value, int) and is_beyond_float(value):
        return f"an int of {value.bit_length()} bits"  # Python limits the digits of a string
    if torch.compiler.is_compiling() and not isinstance(value, (str, int, float, type(None))):
        return f"of type {type(value).__name__}"  # the repr of tensors would break the graph
    return repr(value)


def is_beyond_int64(value: Any) -> bool:
    return isinstance(value, int) and not -(2**63) <= value < 2**63
