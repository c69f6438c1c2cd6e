"""Faults, simulated and real, and the checkers.

The simulation runs a whole Penstock in virtual time, many small ones per second, each from one seed:

plan       what happens in a world, drawn from its seed: shape, commands of clients, faults
crowds     worlds in which more is asked for than may be: bounds, bursts, clients who come again
steps      what commands and faults do
world      one world: the life of the system, and the end it has to come to
loop       virtual time: one event loop for all processes, which can be killed and stopped between two callbacks
processes  machines and the roles' real code on them
network    connections to the broker: latency, partitions
broker/    the broker, in memory, over its real wire protocol
http       connections of clients to edges
clients    what clients do and must never see
ledger     what the broker stored, and what must hold of each record
keys       what must hold of idempotency keys
bounds     what must hold of bounds that all edges share
rest       what processes may hold when all is over
weather    what the broker does wrong message by message
watcher    what must hold of processes, given what was done to them
virtual    what takes the place of clocks, chance and `os._exit` meanwhile
runner     many worlds on all cores
"""
