"""Renders a folder of chat templates with transformers and Jinja2, for text_templates_test to compare with.

    .venv/bin/python tools/templates/render.py TEMPLATES OUT
    SHOAL_TEMPLATES=OUT build/release/bin/text_templates_test

TEMPLATES holds files NAME.jinja: those of models whose licences do not allow a copy here, such as models/templates of
a source package of llama.cpp. OUT gets the templates, the conversations of tests/goldens/text/chat, and rendered.jsonl.
"""

import datetime
import json
import pathlib
import shutil
import sys

from transformers.utils import chat_template_utils

SOURCE = pathlib.Path(__file__).resolve().parents[2]
# The clock of the goldens.
NOW = datetime.datetime(2026, 1, 15, 12, 0, 0)
BOS, EOS = "<s>", "</s>"

CALL = {"id": "call_1", "type": "function",
        "function": {"name": "get_weather", "arguments": {"city": "Zürich", "days": 2, "where": {"a": [1, None, True]}}}}
TOOL = {"type": "function", "function": {
    "name": "get_weather", "description": "The weather.", "parameters": {"type": "object", "properties": {
        "city": {"type": "string", "description": "Where."}, "days": {"type": "integer", "enum": [1, 2]}},
        "required": ["city"]}}}
# What agents send again on each turn: calls in parallel, their results, and the reasoning before them.
MORE = [
    {"name": "reasoned_calls", "kwargs": {"tools": [TOOL]}, "messages": [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Weather?"},
        {"role": "assistant", "content": "", "reasoning_content": "I need two calls.",
         "tool_calls": [CALL, {**CALL, "id": "call_2"}]},
        {"role": "tool", "tool_call_id": "call_1", "name": "get_weather", "content": "{\"sun\": true}"},
        {"role": "tool", "tool_call_id": "call_2", "name": "get_weather", "content": "rain"},
    ]},
    {"name": "reasoned_call_and_answer", "kwargs": {"tools": [TOOL]}, "messages": [
        {"role": "user", "content": "Weather?"},
        {"role": "assistant", "content": "I look.", "reasoning_content": "One call.", "tool_calls": [CALL]},
        {"role": "tool", "tool_call_id": "call_1", "name": "get_weather", "content": "sun"},
        {"role": "assistant", "content": "Sun.", "reasoning_content": "It is sunny."},
        {"role": "user", "content": "Thanks"},
    ]},
]


class Frozen(datetime.datetime):
    @classmethod
    def now(cls, tz=None):
        return NOW


def row_of(name, template, conversation):
    row = {"template": name, "conversation": conversation["name"], "bos_token": BOS, "eos_token": EOS}
    try:
        row["text"] = chat_template_utils.render_jinja_template(
            conversations=[conversation["messages"]], chat_template=template, bos_token=BOS, eos_token=EOS,
            **{"add_generation_prompt": True, **conversation["kwargs"]})[0][0]
    except Exception as e:  # noqa: BLE001: whatever a template does, the comparison is of the failure.
        row["error"], row["error_type"] = str(e).split("\nRendered chat")[0], type(e).__name__
    return row


def main():
    source, out = map(pathlib.Path, sys.argv[1:3])
    chat_template_utils.datetime = Frozen
    conversations = json.loads((SOURCE / "tests/goldens/text/chat/conversations.json").read_text()) + MORE
    (out / "templates").mkdir(parents=True, exist_ok=True)
    (out / "conversations.json").write_text(json.dumps(conversations, ensure_ascii=False) + "\n")
    rows = []
    for path in sorted(source.glob("*.jinja")):
        shutil.copyfile(path, out / "templates" / path.name)
        rows += [row_of(path.stem, path.read_text(), conversation) for conversation in conversations]
    (out / "rendered.jsonl").write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
    print(f"{len(rows)} rows, {sum('error' in row for row in rows)} of them errors")


if __name__ == "__main__":
    main()
