"""A Flower federation with hostile clients, on this machine: ``python -m examples.flower.run``."""
