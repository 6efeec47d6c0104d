"""Timings and checks of the operators; each module runs with `python -m`."""
