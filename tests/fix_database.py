"""Who PostgreSQL runs as in the tests: it refuses root, and every machine has ``nobody``."""

from __future__ import annotations

import os

RUN_AS = "nobody" if os.geteuid() == 0 else None
