"""Let `python -m openzaya` be the same as the `openzaya` command."""

import sys

from openzaya.cli.main import main

sys.exit(main())
