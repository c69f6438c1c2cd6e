"""Whole systems and what they cost: measured, never simulated. Not part of the wheel."""
