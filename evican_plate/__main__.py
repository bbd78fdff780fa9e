"""``python -m evican_plate``."""

import sys

from evican_plate.cli import main

sys.exit(main())
