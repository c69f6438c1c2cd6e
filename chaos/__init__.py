"""Faults, simulated and real, and the checkers."""
