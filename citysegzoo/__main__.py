"""``python -m citysegzoo`` is the ``citysegzoo`` command."""

import sys

from citysegzoo.cli import main

sys.exit(main())
