"""Who runs what, when: one leader holds a small window of requests and hands batches to workers that asked.

It keeps soft state only. Everything here may be wiped at any time and is rebuilt from deliveries and pulls.

core      the decisions: events in, actions out; time and leadership
requests  what becomes of each held request
holding   which requests are held, and until when
backlog   the order of those that wait, and batches made of them
window    how much of a model may be pulled from the queue
models    which models there are
fleet     workers: credit, what they run, whether they live
election  who leads
service   the thin shell: messages to events, actions to messages
"""
