"""Pacifica UniqueID: ranges of IDs over HTTP, never the same ID twice for a mode."""

__version__ = "1.0.0"
