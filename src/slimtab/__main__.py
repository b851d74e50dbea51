"""``python -m slimtab`` is the ``slimtab`` command."""

import sys

from slimtab.cli import main

if __name__ == "__main__":
    sys.exit(main())
