"""`python -m audiotok` is the command `audiotok`."""

import sys

from .cli import main

sys.exit(main())
