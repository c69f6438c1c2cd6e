"""Files, and batches of requests made of them."""
