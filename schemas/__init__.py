"""The contract between the roles: messages, subjects, streams, errors, ids. Imports msgspec and nothing of ours.

The words of the project; code and docs use these and no synonyms:

request     one generation asked for by a client; named by its rid
tenant      whose request it is; a key derived by the server, never client text
model       what is asked to generate; a registry key in subjects, its real name in fields
class       how urgent: ``interactive``, ``standard`` or ``batch``
batch       requests of one model and one `max_tokens` bucket sent to a worker together: a unit of dispatch
attempt     one delivery of a request to a worker
lease       the ctl record that says which attempt may append to the output log
END         the ctl record that closes an output log; at most one, and nothing after it
record      one message of a request's output log
offset      index of a token in a request's output, over all choices, in append order
pull        a worker's standing credit: how much more it will take
edge        HTTP in, event streams out
scheduler   who runs what, when
worker      one process that runs one model on an engine
engine      what a worker runs a model on
slot        room for one running request
door        where an edge turns away what would be too late, or would take another one's place
line        those who wait for one model, as an edge knows them
place       where in its line a request stands; in a queue, room for one request
prospect    what is ahead of one request: when its turn comes, or when to try again
"""
