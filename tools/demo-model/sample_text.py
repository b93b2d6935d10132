"""Writes documents like those that the demo model was trained on, from another seed, for `shoal eval --text`.

    python sample_text.py OUT --documents 300 --seed 77

Needs only jinja2.
"""
import argparse
import json
import pathlib
import random

from jinja2.sandbox import ImmutableSandboxedEnvironment

import generate
from template import CHAT_TEMPLATE


def main():
    p = argparse.ArgumentParser()
    p.add_argument("out", type=pathlib.Path)
    p.add_argument("--documents", type=int, default=300)
    p.add_argument("--seed", type=int, default=77, help="corpus.py used 1")
    a = p.parse_args()
    environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True)
    environment.filters["tojson"] = lambda x: json.dumps(x, ensure_ascii=False)
    template = environment.from_string(CHAT_TEMPLATE)
    rng = random.Random(a.seed)
    texts = []
    for _ in range(a.documents):
        _, text, messages, tools = generate.document(rng)
        texts.append((text if text is not None else template.render(messages=messages, tools=tools)) + "<|endoftext|>")
    a.out.write_text("".join(texts), encoding="utf-8")


if __name__ == "__main__":
    main()
