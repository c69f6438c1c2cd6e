"""Bounds that all edges share: how many requests of a tenant, requests for a model and open answers of a key there are.

counter   one counted thing as this edge knows it: who enters, who is refused, what is stored next
core      all of them, which edges are alive, and time
events    everything that can happen to the core, and everything it can ask for
service   the thin shell: calls on the bucket, and whoever waits to be let in
leftover  requests whose reader left: counted until their END is seen
limits    the limits of the gate that count here
"""
