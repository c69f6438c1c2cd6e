"""What a worker runs a model on: one file per engine, all behind the seam in `base`."""
