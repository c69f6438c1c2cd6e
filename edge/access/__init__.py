"""Who a request comes from, and what a connection may do before that is known."""
