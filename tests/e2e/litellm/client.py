"""What LiteLLM gets from a server: python client.py URL, as one line of JSON. Nothing but that address is asked."""
import asyncio
import json
import os
import sys

os.environ |= {"LITELLM_LOCAL_MODEL_COST_MAP": "True", "LITELLM_TELEMETRY": "False", "DO_NOT_TRACK": "1",
               "HF_HUB_OFFLINE": "1", "NO_PROXY": "*"}

import litellm  # noqa: E402

litellm.telemetry = False
litellm.suppress_debug_info = True
litellm.num_retries = 0

QUESTION = [{"role": "user", "content": "What is the capital of Portugal?"}]
WEATHER = {"type": "function",
           "function": {"name": "get_weather", "description": "The weather in a city",
                        "parameters": {"type": "object", "properties": {"city": {"enum": ["Tokyo", "Oslo"]}},
                                       "required": ["city"], "additionalProperties": False}}}
SCHEMA = {"type": "json_schema",
          "json_schema": {"name": "answer", "strict": True,
                          "schema": {"type": "object", "properties": {"city": {"enum": ["Lisbon", "Porto"]},
                                                                      "sure": {"type": "boolean"}},
                                     "required": ["city", "sure"], "additionalProperties": False}}}
# The providers by which LiteLLM speaks the API of each kind: where their addresses begin.
PROVIDERS = {"openai/shoal-demo-4bit": "/v1", "hosted_vllm/shoal-demo-4bit": "/v1", "anthropic/shoal-demo-4bit": "",
             "ollama_chat/shoal-demo-4bit": ""}


def options(url, model="openai/shoal-demo-4bit"):
    return {"model": model, "api_base": url + PROVIDERS[model], "api_key": "unused", "timeout": 60}


def text_of(answer):
    return answer.choices[0].message.content


def answers(url):
    """The same question through every provider."""
    return {model: text_of(litellm.completion(messages=QUESTION, temperature=0, max_tokens=64, **options(url, model)))
            for model in PROVIDERS}


def stream(url):
    chunks = list(litellm.completion(messages=QUESTION, temperature=0, max_tokens=64, stream=True,
                                     stream_options={"include_usage": True}, **options(url)))
    whole = litellm.stream_chunk_builder(chunks)
    return {"text": text_of(whole), "reason": whole.choices[0].finish_reason,
            "usage": [whole.usage.prompt_tokens, whole.usage.completion_tokens]}


def call(url):
    """A tool is called, and its result goes back."""
    messages = [{"role": "user", "content": "Weather in Tokyo? Use the tool."}]
    asked = litellm.completion(messages=messages, tools=[WEATHER], tool_choice="required", temperature=0, max_tokens=100,
                               **options(url)).choices[0]
    calls = asked.message.tool_calls
    messages += [asked.message.model_dump(exclude_none=True)]
    messages += [{"role": "tool", "tool_call_id": one.id, "content": "sunny"} for one in calls]
    then = litellm.completion(messages=messages, tools=[WEATHER], temperature=0, max_tokens=40, **options(url)).choices[0]
    return {"reason": asked.finish_reason, "names": [one.function.name for one in calls],
            "arguments": [json.loads(one.function.arguments) for one in calls], "then": then.finish_reason}


def errors(url):
    """The classes that LiteLLM makes of errors: its users match them."""
    wrong = {"another model": {"model": "openai/another", "messages": QUESTION},
             "too long": {"messages": [{"role": "user", "content": "fox " * 5000}]},
             "wrong field": {"messages": QUESTION, "temperature": 7}}
    got = {}
    for name, request in wrong.items():
        try:
            litellm.completion(**{**options(url), **request})
            got[name] = "answered"
        except Exception as error:  # noqa: BLE001: which class it is, is what is asked.
            got[name] = type(error).__name__
    return got


async def together(url):
    return [text_of(one) for one in await asyncio.gather(
        *(litellm.acompletion(messages=QUESTION, temperature=0, max_tokens=64, **options(url)) for _ in range(4)))]


def main(url):
    embedded = litellm.embedding(input=["a fox", "a moon"], encoding_format="float", **options(url)).data
    schema = litellm.completion(messages=QUESTION, response_format=SCHEMA, temperature=0, max_tokens=60, **options(url))
    responses = litellm.responses(input=QUESTION[0]["content"], temperature=0, max_output_tokens=64, **options(url))
    got = {"answers": answers(url), "stream": stream(url), "call": call(url), "errors": errors(url),
           "together": asyncio.run(together(url)), "object": json.loads(text_of(schema)),
           "embeddings": [one["embedding"] for one in embedded],
           "responses": "".join(part.text for item in responses.output if item.type == "message" for part in item.content)}
    print(json.dumps(got))


main(sys.argv[1])
