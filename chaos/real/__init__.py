"""Faults on real processes and brokers, a workload over them, and a checker that reads what they left behind."""
