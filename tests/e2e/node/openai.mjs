// The official OpenAI client of Node against a server; prints what it got, as JSON. openai.mjs URL
import OpenAI from "openai";
import { z } from "zod";
import { zodResponseFormat } from "openai/helpers/zod";

const client = new OpenAI({ baseURL: process.argv[2] + "/v1", apiKey: "unused", maxRetries: 0, timeout: 60_000 });
const out = {};

const { data } = await client.models.list();
const model = data[0].id;
out.models = data.map((one) => ({ id: one.id, context: one.context_length }));

const ask = {
  model,
  messages: [{ role: "user", content: "What is the capital of Portugal?" }],
  temperature: 0,
  max_tokens: 64,
};
const whole = await client.chat.completions.create(ask);
out.chat = { content: whole.choices[0].message.content, reason: whole.choices[0].finish_reason, usage: whole.usage };

const streamed = client.chat.completions.stream({ ...ask, stream_options: { include_usage: true } });
const pieces = [];
streamed.on("content", (piece) => pieces.push(piece));
const last = await streamed.finalChatCompletion();
out.stream = { joined: pieces.join(""), content: last.choices[0].message.content, usage: last.usage };

const tool = {
  type: "function",
  function: {
    name: "get_weather",
    description: "The weather of a city",
    parameters: { type: "object", properties: { city: { enum: ["Paris", "Oslo"] } }, required: ["city"] },
  },
};
const called = await client.chat.completions.create({ ...ask, tools: [tool], tool_choice: "required", max_tokens: 200 });
const message = called.choices[0].message;
out.call = { name: message.tool_calls[0].function.name, arguments: JSON.parse(message.tool_calls[0].function.arguments) };
const after = await client.chat.completions.create({
  ...ask,
  tools: [tool],
  messages: [...ask.messages, message, { role: "tool", tool_call_id: message.tool_calls[0].id, content: "sunny" }],
});
out.after_call = after.choices[0].finish_reason;

const Answer = z.object({ city: z.enum(["Lisbon", "Porto"]), sure: z.boolean() });
const parsed = await client.chat.completions.parse({ ...ask, response_format: zodResponseFormat(Answer, "answer") });
out.parsed = parsed.choices[0].message.parsed;

const response = await client.responses.create({ model, input: ask.messages[0].content, temperature: 0 });
const events = [];
for await (const event of await client.responses.create({
  model,
  input: ask.messages[0].content,
  temperature: 0,
  stream: true,
})) {
  events.push(event);
}
out.response = {
  text: response.output_text,
  joined: events.filter((e) => e.type === "response.output_text.delta").map((e) => e.delta).join(""),
  last: events.at(-1).type,
};

const echoed = await client.completions.create({
  model,
  prompt: "The capital of France is Paris",
  max_tokens: 0,
  echo: true,
  logprobs: 1,
});
out.echo = echoed.choices[0];

const embedded = await client.embeddings.create({ model, input: ["a fox", "a moon"] });
out.embeddings = embedded.data.map((one) => [...one.embedding]);

try {
  await client.chat.completions.create({ ...ask, surprise: 1 });
} catch (error) {
  out.error = { status: error.status, code: error.code, kind: error.constructor.name };
}

// A client that goes away in the midst of a stream.
const abandoned = await client.chat.completions.create({
  ...ask,
  max_tokens: 2000,
  stream: true,
  logit_bias: { 4087: -100, 4089: -100 },
});
let seen = 0;
for await (const chunk of abandoned) {
  seen += chunk.choices.length;
  if (seen > 3) break;  // Aborts the request.
}
out.abandoned = seen;

console.log(JSON.stringify(out));
