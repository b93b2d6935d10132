"""Runs the scripts of tests/e2e/node, which print what a client of Node got from a server."""
import functools
import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest

FOLDER = Path(__file__).resolve().parent / "node"


def run_node(script, cluster):
    """What the script prints; of each server once."""
    return _run(script, cluster.url)


@functools.cache
def _run(script, url):
    node = shutil.which("node")
    if node is None:
        pytest.skip("node is not installed: `./dev setup` installs it")
    assert (FOLDER / "node_modules").is_dir(), "the packages of tests/e2e/node are missing: `./dev setup` installs them"
    # Nothing but loopback is asked: no proxy, and no telemetry.
    env = {key: value for key, value in os.environ.items() if not key.lower().endswith("_proxy")}
    env |= {"NEXT_TELEMETRY_DISABLED": "1", "DO_NOT_TRACK": "1"}
    done = subprocess.run([node, FOLDER / script, url], capture_output=True, text=True, timeout=80, env=env,
                          cwd=FOLDER, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return json.loads(done.stdout.splitlines()[-1])
