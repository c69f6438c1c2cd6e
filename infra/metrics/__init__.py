"""Metrics of a process: tables of names, what a page is made of, and who serves it."""
