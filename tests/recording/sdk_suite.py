"""Run the metrics tests of the SDK's own source release with the fast way installed.

    python sdk_suite.py SDK_SOURCE TEST_UTILS

Both are folders: the unpacked source release, and a folder with `opentelemetry/test` in it.
"""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import pytest

from flx_otel_distro import recording


def main(source: Path, utils: Path) -> int:
    """Return pytest's exit code."""
    sys.path.insert(0, str(source))
    # `opentelemetry` is a namespace whose path is not ours to extend; the module of test utilities is put in by name
    folder = utils / "opentelemetry/test"
    spec = importlib.util.spec_from_file_location(
        "opentelemetry.test", folder / "__init__.py", submodule_search_locations=[str(folder)]
    )
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["opentelemetry.test"] = module
    spec.loader.exec_module(module)
    assert recording.install(environ={}), "the fast way could not be installed"
    options = ["-q", "-c", "/dev/null", "--rootdir", str(source), "-W", "ignore"]
    plugins = ["-p", "no:cacheprovider", "-p", "no:xdist", "-p", "no:hypothesispytest"]
    code = pytest.main([*options, *plugins, str(source / "tests/metrics")])
    assert recording.installed()
    return int(code)


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), Path(sys.argv[2])))
