"""Make the upstream `opentelemetry-instrument` choose this distro where the user names none.

`opentelemetry-distro` registers a rival entry point, and upstream takes whichever comes first on
disk. `opentelemetry-instrument` loads every module of the group `opentelemetry_environment_variables`
in its wrapper process, before it starts the app and before it reads its own options; this module is
one of them, so the choice is in the app's environment and `--distro other` still wins.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

if Path(sys.argv[0] if sys.argv else "").name.removesuffix(".exe") == "opentelemetry-instrument":
    os.environ.setdefault("OTEL_PYTHON_DISTRO", "flx")
    os.environ.setdefault("OTEL_PYTHON_CONFIGURATOR", "flx")
