"""The WSGI application under its old name, for ``--module pacifica.uniqueid.wsgi``."""

from uniqueid.wsgi import application

__all__ = ["application"]
