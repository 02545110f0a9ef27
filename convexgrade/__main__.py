"""Run the command line: ``python -m convexgrade``."""

import sys

from convexgrade.cli import main

if __name__ == "__main__":
    sys.exit(main())
