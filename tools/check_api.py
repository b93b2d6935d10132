#!/usr/bin/env python3
"""Sends requests that schemathesis makes from docs/openapi.yaml, good ones and bad ones, to a server of the demo model.

Runs with the Python of schemathesis, which has its YAML.

    build/schemathesis/bin/python tools/check_api.py --shoal build/release/bin/shoal --schemathesis build/schemathesis/bin/schemathesis
"""
import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tools/demo"))

import yaml  # noqa: E402

from local_cluster import LocalCluster  # noqa: E402

# Not for us: these are about resources that clients make, and about headers that an operation requires. Bounds of the
# description keep requests small, and the server takes what is beyond them; null says nothing.
NOT_CHECKED = ("use_after_free,ensure_resource_availability,object_level_authorization,missing_required_header,"
               "negative_data_rejection")


# The demo model was not trained to fill in the middle, and is alone on its server.
NOT_SENT = ("/infill", "/models/load", "/models/unload")

LIMITS = {"max_tokens", "max_output_tokens"}


def closed(schema, everything):
    """A request's schema without further fields, as those that are made up would be refused by name."""
    while "$ref" in schema:
        schema = resolved(schema["$ref"], everything)
    schema = dict(schema)
    for part in schema.pop("allOf", ()):
        part = closed(part, everything)
        schema["type"] = "object"
        schema["properties"] = {**schema.get("properties", {}), **part.get("properties", {})}
        schema["required"] = [*schema.get("required", ()), *part.get("required", ())]
    if "properties" in schema:
        schema["properties"] = {name: closed(inner, everything) for name, inner in schema["properties"].items()}
        schema["additionalProperties"] = False
        # Without a limit some answers last as long as the context.
        limits = LIMITS & schema["properties"].keys()
        schema["required"] = sorted({*schema.get("required", ()), *limits})
        if not schema["required"]:
            del schema["required"]
    return schema


def resolved(reference, everything):
    for name in reference.removeprefix("#/").split("/"):
        everything = everything[name]
    return everything


def description(folder):
    """The description with closed requests, as a file."""
    everything = yaml.safe_load((ROOT / "docs/openapi.yaml").read_text())
    for path in NOT_SENT:
        del everything["paths"][path]
    for operations in everything["paths"].values():
        for operation in operations.values():
            if not isinstance(operation, dict) or "requestBody" not in operation:
                continue
            body = operation["requestBody"]
            body = resolved(body["$ref"], everything) if "$ref" in body else body
            json_body = body["content"]["application/json"]
            json_body["schema"] = closed(json_body["schema"], everything)
    path = Path(folder) / "openapi.json"
    path.write_text(json.dumps(everything))
    return path


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
                [options.schemathesis.resolve(), "run", description(folder), "--url", cluster.url, "--checks", "all",
                 "--exclude-checks", NOT_CHECKED, "--max-examples", str(options.examples), "--seed", str(options.seed),
                 "--phases", "examples,coverage,fuzzing", "--continue-on-failure", "--no-color", "--request-timeout", "60"],
                cwd=folder, env={**os.environ, "NO_PROXY": "127.0.0.1"}, check=False)
            if not cluster.coordinator.alive:
                print(cluster.coordinator.log_tail(30), file=sys.stderr)
                return 1
            return done.returncode


if __name__ == "__main__":
    sys.exit(main())
