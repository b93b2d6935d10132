#!/usr/bin/env python3
"""Sends requests that schemathesis makes from docs/openapi.yaml, good ones and bad ones, to a server of the demo model.

    check_api.py --shoal build/release/bin/shoal --schemathesis build/schemathesis/bin/schemathesis
"""
import argparse
import os
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tools/demo"))

from local_cluster import LocalCluster  # noqa: E402

# Not for us: these are about resources that clients make, and about headers that an operation requires.
NOT_CHECKED = "use_after_free,ensure_resource_availability,object_level_authorization,missing_required_header"


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--shoal", required=True, type=Path)
    parser.add_argument("--schemathesis", required=True, type=Path)
    parser.add_argument("--examples", type=int, default=100, help="requests made at random for each operation")
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        with LocalCluster(options.shoal.resolve(), ROOT / "models/shoal-demo-4bit", folder) as cluster:
            done = subprocess.run(
                [options.schemathesis.resolve(), "run", ROOT / "docs/openapi.yaml", "--url", cluster.url, "--checks", "all",
                 "--exclude-checks", NOT_CHECKED, "--max-examples", str(options.examples), "--seed", str(options.seed),
                 "--phases", "examples,coverage,fuzzing", "--continue-on-failure", "--no-color", "--request-timeout", "60"],
                cwd=folder, env={**os.environ, "NO_PROXY": "127.0.0.1"}, check=False)
            if not cluster.coordinator.alive:
                print(cluster.coordinator.log_tail(30), file=sys.stderr)
                return 1
            return done.returncode


if __name__ == "__main__":
    sys.exit(main())
