"""SLAKE."""
