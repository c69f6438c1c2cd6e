"""Plumbing: all that touches processes, the broker, the environment or the terminal; nothing that decides.

The roles (edge, scheduler, workers) import from here; this package imports only `schemas`.
"""
