"""Client of the Pacifica UniqueID service: ranges of IDs, and single IDs fetched ahead.

::

    from uniqueid_client import Client

    with Client("http://uniqueid:8051") as client:
        files = client.get_range("file", 100)
        ids = client.ids("file")
        first = next(ids)

`AsyncClient` is the same for asyncio.
"""

from uniqueid_client.aio import AsyncClient, AsyncIDs
from uniqueid_client.client import Client
from uniqueid_client.errors import (
    CachedResponseError,
    ClientClosed,
    RepeatedRangeError,
    RequestRefused,
    ServiceUnavailable,
    UniqueIDError,
)
from uniqueid_client.ids import IDs, Range
from uniqueid_client.protocol import read_token
from uniqueid_client.version import __version__

__all__ = [
    "AsyncClient",
    "AsyncIDs",
    "CachedResponseError",
    "Client",
    "ClientClosed",
    "IDs",
    "Range",
    "RepeatedRangeError",
    "RequestRefused",
    "ServiceUnavailable",
    "UniqueIDError",
    "__version__",
    "read_token",
]
