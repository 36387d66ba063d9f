"""The old import path of this service; what it holds is in ``uniqueid``."""
