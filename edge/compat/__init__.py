"""Endpoints of four systems that people come from, as they know them: see docs/reference_systems.md."""
