"""One model, one process: runs requests on an engine and appends their tokens to their output logs.

`core` decides, `attempt` is the life of one request, `service` connects them to the broker, `engines/` run models.
"""
