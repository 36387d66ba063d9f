"""``python -m uniqueid``: the command ``pacifica-uniqueid-cmd``."""

import sys

from uniqueid.commands.cli import main

if __name__ == "__main__":
    sys.exit(main())
