"""Holds a running server against a folder of public schemas: python tests/e2e/check_schemas.py URL FOLDER [--most N]

Asks for an answer of each schema (*.json; JSONSchemaBench's {"json_schema": ...} is read, too) and validates it with
Python's jsonschema. A schema that the server refuses, and an answer that ran into its limit, count apart: neither is
wrong. The exit status is 1 if an answer is not of its schema.
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


def schema_of(path):
    value = json.loads(path.read_text())
    schema = value.get("json_schema", value)
    return json.loads(schema) if isinstance(schema, str) else schema


def outcome(client, path, tokens):
    try:
        schema = schema_of(path)
        jsonschema.validators.validator_for(schema, default=jsonschema.Draft202012Validator).check_schema(schema)
    except (ValueError, AttributeError, jsonschema.SchemaError) as error:
        return "no schema", str(error).splitlines()[0]
    answer = client.post("/v1/chat/completions", json=body_of(schema, max_tokens=tokens))
    if answer.status_code == 400:
        return "refused", answer.json()["error"]["message"]
    if answer.status_code != 200:
        return "failed", answer.text
    choice = answer.json()["choices"][0]
    if choice["finish_reason"] != "stop":
        return "unfinished", ""
    wrong = validate(schema, choice["message"]["content"])
    return ("valid", "") if wrong is None else ("INVALID", f"{wrong}: {choice['message']['content']}")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("url")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--most", type=int, help="only so many schemas")
    parser.add_argument("--tokens", type=int, default=1000, help="of an answer, at most")
    parser.add_argument("--streams", type=int, default=8)
    words = parser.parse_args()
    paths = sorted(words.folder.rglob("*.json"))[:words.most]
    counts = collections.Counter()
    with httpx.Client(base_url=words.url, trust_env=False, timeout=600) as client, \
            concurrent.futures.ThreadPoolExecutor(words.streams) as pool:
        for path, (what, why) in zip(paths, pool.map(lambda path: outcome(client, path, words.tokens), paths)):
            counts[what] += 1
            if why:
                print(f"{path.relative_to(words.folder)}: {what}: {why[:200]}")
    print(", ".join(f"{count} {what}" for what, count in counts.most_common()), "of", len(paths))
    return 1 if counts["INVALID"] or counts["failed"] else 0


if __name__ == "__main__":
    sys.exit(main())
