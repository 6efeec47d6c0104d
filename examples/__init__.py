"""Runnable applications of ddn_cuda; each is started with ``python -m examples.NAME``."""
