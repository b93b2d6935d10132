"""Answers that must be of a schema: ask for one, and hold it against Python's own validator."""
import json
from pathlib import Path

import jsonschema

SCHEMAS = json.loads((Path(__file__).parent / "schemas.json").read_text())


def body_of(schema, prompt="Give me an example.", **more):
    return {"messages": [{"role": "user", "content": prompt}], "max_tokens": 400, "temperature": 0.7, "seed": 1,
            "response_format": {"type": "json_schema",
                                "json_schema": {"name": "answer", "strict": True, "schema": schema}}, **more}


def validate(schema, text):
    """What is wrong with the text; None if it is a value of the schema."""
    try:
        value = json.loads(text)
    except ValueError as error:
        return f"no JSON: {error}"
    validator = jsonschema.validators.validator_for(schema, default=jsonschema.Draft202012Validator)
    errors = validator(schema, format_checker=validator.FORMAT_CHECKER).iter_errors(value)
    return next((error.message for error in errors), None)
