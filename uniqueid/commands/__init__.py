"""The commands ``pacifica-uniqueid-cmd`` and ``pacifica-uniqueid``."""
