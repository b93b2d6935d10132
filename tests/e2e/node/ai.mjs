// Vercel's AI SDK against a server; prints what it got, as JSON. ai.mjs URL
import { createOpenAICompatible } from "@ai-sdk/openai-compatible";
import { embedMany, generateObject, generateText, stepCountIs, streamText, tool } from "ai";
import { z } from "zod";

globalThis.AI_SDK_LOG_WARNINGS = false;
const provider = createOpenAICompatible({
  name: "shoal",
  baseURL: process.argv[2] + "/v1",
  apiKey: "unused",
  includeUsage: true,
  supportsStructuredOutputs: true,
});
const model = provider("shoal-demo-4bit");
const ask = { model, prompt: "What is the capital of Portugal?", temperature: 0, maxOutputTokens: 64, maxRetries: 0 };
const out = {};

const whole = await generateText(ask);
out.text = { text: whole.text, reason: whole.finishReason, usage: whole.usage };

const streamed = streamText(ask);
const pieces = [];
for await (const piece of streamed.textStream) pieces.push(piece);
out.stream = { joined: pieces.join(""), reason: await streamed.finishReason, usage: await streamed.usage };

const { object } = await generateObject({
  ...ask,
  schema: z.object({ city: z.enum(["Lisbon", "Porto"]), sure: z.boolean() }),
});
out.object = object;

const asked = [];
const called = await generateText({
  ...ask,
  maxOutputTokens: 200,
  tools: {
    get_weather: tool({
      description: "The weather of a city",
      inputSchema: z.object({ city: z.enum(["Paris", "Oslo"]) }),
      execute: async (input) => {
        asked.push(input);
        return "sunny in " + input.city;
      },
    }),
  },
  // The first step must call; what it gave goes back to the model in the second.
  prepareStep: ({ stepNumber }) => ({ toolChoice: stepNumber === 0 ? "required" : "none" }),
  stopWhen: stepCountIs(2),
});
out.calls = { asked, steps: called.steps.length, reasons: called.steps.map((step) => step.finishReason) };

const embedded = await embedMany({ model: provider.textEmbeddingModel("shoal-demo-4bit"), values: ["a fox", "a moon"] });
out.embeddings = embedded.embeddings;

try {
  await generateText({ ...ask, model: provider("another") });
} catch (error) {
  out.error = { status: error.statusCode, message: error.message };
}

console.log(JSON.stringify(out));
