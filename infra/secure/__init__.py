"""A broker that lets in only whom it knows: what `penstock broker init --secure` writes."""
