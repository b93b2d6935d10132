"""Holds a running server against a folder of public schemas: python tests/e2e/check_schemas.py URL FOLDER [--most N]

Asks for an answer of each schema (*.json; JSONSchemaBench's {"json_schema": ...} and the official test suite's lists of
groups are read, too) and validates it with Python's jsonschema. A schema that the server refuses, and an answer that ran
into its limit, count apart: neither is wrong. The exit status is 1 if an answer is not of its schema, or failed.
"""
import argparse
import collections
import concurrent.futures
import json
import sys
from pathlib import Path

import httpx
import jsonschema

from structure import body_of, validate


def schemas_of(path):
    """The schemas of a file, each with a name."""
    name = path.name
    try:
        value = json.loads(path.read_text())
    except ValueError:
        return [(name, None)]
    if isinstance(value, list):
        groups = [group for group in value if isinstance(group, dict)]
        return [(f"{name}: {group.get('description')}", group.get("schema")) for group in groups]
    schema = value.get("json_schema", value)
    return [(name, json.loads(schema) if isinstance(schema, str) else schema)]


def outcome(client, schema, tokens):
    try:
        jsonschema.validators.validator_for(schema, default=jsonschema.Draft202012Validator).check_schema(schema)
    except (ValueError, AttributeError, TypeError, jsonschema.SchemaError) as error:
        return "no schema", str(error).splitlines()[0]
    answer = client.post("/v1/chat/completions", json=body_of(schema, max_tokens=tokens))
    if answer.status_code == 400:
        return "refused", answer.json()["error"]["message"]
    if answer.status_code != 200:
        return "failed", answer.text
    choice = answer.json()["choices"][0]
    if choice["finish_reason"] != "stop":
        return "unfinished", ""
    try:
        wrong = validate(schema, choice["message"]["content"])
    except Exception as error:  # noqa: BLE001: the validator follows references to the network, and fails.
        return "not validated", str(error)
    return ("valid", "") if wrong is None else ("INVALID", f"{wrong}: {choice['message']['content']}")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("url")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--most", type=int, help="only so many schemas")
    parser.add_argument("--tokens", type=int, default=1000, help="of an answer, at most")
    parser.add_argument("--streams", type=int, default=8)
    words = parser.parse_args()
    schemas = [one for path in sorted(words.folder.rglob("*.json")) for one in schemas_of(path)][:words.most]
    counts = collections.Counter()
    with httpx.Client(base_url=words.url, trust_env=False, timeout=600) as client, \
            concurrent.futures.ThreadPoolExecutor(words.streams) as pool:
        outcomes = pool.map(lambda one: outcome(client, one[1], words.tokens), schemas)
        for (name, _), (what, why) in zip(schemas, outcomes):
            counts[what] += 1
            if why:
                print(f"{name}: {what}: {why[:300]}")
    print(", ".join(f"{count} {what}" for what, count in counts.most_common()), "of", len(schemas))
    return 1 if counts["INVALID"] or counts["failed"] else 0


if __name__ == "__main__":
    sys.exit(main())
