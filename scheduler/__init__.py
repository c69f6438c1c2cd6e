"""Who runs what, when: one leader holds a small window of requests and hands batches to workers that asked.

It keeps soft state only. Everything here may be wiped at any time and is rebuilt from deliveries and pulls.

core          the decisions: events in, actions out; time and leadership
turn          what the parts of the core share while one event is handled
requests      what becomes of each held request
holding       which requests are held, and until when
dispatcher    who is offered what
backlog       the order of those that wait, and batches made of them
suspects      requests that brought an engine down, each on a worker of its own
cancels       cancels, a few at a time
readers       who reads at which edge, and what nobody reads any more
fetching      the consumers of each model: there, fetched from, delivering
window        how much of a model may be pulled from the queue
models        which models there are
quotas        what direct publishers queued beyond a bound
quota_events  what they are told, and what they ask for
watchdog      consumers that deliver nothing
fleet         workers: credit, what they run, whether they live
election      who leads
service       the thin shell: messages to events, actions to messages
broker_calls  the shell's calls about single requests
quota_calls   the shell's calls for the quotas
leadership    the shell's calls on the leader's key
"""
