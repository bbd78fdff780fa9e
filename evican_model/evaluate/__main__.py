"""The command ``python -m evican_model.evaluate``."""

import sys

from evican_model.evaluate.command import main

if __name__ == "__main__":
    sys.exit(main())
