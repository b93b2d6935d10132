// Conversations: how they are kept, sent and read from a stream. Pure, but for the two functions that name a storage.

export interface Token {
  text: string;
  logprob: number;
  top: { text: string; logprob: number }[];
}
export interface Call {
  id: string;
  name: string;
  arguments: string;
}
export interface Choice {
  content: string;
  reasoning: string;
  calls: Call[];
  tokens: Token[]; // Only where probabilities were asked for, and not kept.
  reason: string; // Why it ended; "" while it runs.
}
export interface Stats {
  prompt: number;
  cached: number;
  generated: number;
  firstMs: number;
  wholeMs: number;
}
export type Turn =
  | { role: "user"; text: string }
  | { role: "assistant"; choices: Choice[]; chosen: number; stats: Stats | null; error: string }
  | { role: "tool"; call: string; name: string; text: string };

export interface Settings {
  system: string;
  temperature: number | null; // null: the model's own.
  maxTokens: number | null;
  choices: number;
  probabilities: boolean;
  tools: string; // JSON: an array as the API has it; "" for none.
}
export interface Conversation {
  id: string;
  title: string;
  at: number; // Unix milliseconds of the last change.
  turns: Turn[];
  settings: Settings;
}

export const USUAL: Settings = { system: "", temperature: null, maxTokens: null, choices: 1, probabilities: false, tools: "" };

export function emptyChoice(): Choice {
  return { content: "", reasoning: "", calls: [], tokens: [], reason: "" };
}

export function titleOf(turns: Turn[]): string {
  const first = turns.find((turn) => turn.role === "user");
  const line = first?.role === "user" ? first.text.trim().split("\n")[0]! : "";
  return line.length > 48 ? `${line.slice(0, 47)}…` : line || "New chat";
}

/** The tools of the settings; an error in words where they are none. */
export function toolsOf(settings: Settings): { tools: unknown[]; error: string } {
  if (settings.tools.trim() === "") return { tools: [], error: "" };
  try {
    const tools = JSON.parse(settings.tools);
    return Array.isArray(tools) ? { tools, error: "" } : { tools: [], error: "Tools are a JSON array." };
  } catch (error) {
    return { tools: [], error: `Tools are not JSON: ${(error as Error).message}` };
  }
}

/** The body of POST /v1/chat/completions. */
export function requestOf(turns: Turn[], settings: Settings, model: string): Record<string, unknown> {
  const messages: Record<string, unknown>[] = [];
  if (settings.system.trim() !== "") messages.push({ role: "system", content: settings.system });
  for (const turn of turns) {
    if (turn.role === "user") messages.push({ role: "user", content: turn.text });
    if (turn.role === "tool") messages.push({ role: "tool", tool_call_id: turn.call, content: turn.text });
    if (turn.role !== "assistant") continue;
    const choice = turn.choices[turn.chosen] ?? emptyChoice();
    const message: Record<string, unknown> = { role: "assistant", content: choice.content };
    if (choice.calls.length > 0) {
      message.tool_calls = choice.calls.map((call) => ({ id: call.id, type: "function", function: { name: call.name, arguments: call.arguments } }));
    }
    messages.push(message);
  }
  const body: Record<string, unknown> = { model, messages, stream: true, stream_options: { include_usage: true } };
  if (settings.temperature !== null) body.temperature = settings.temperature;
  if (settings.maxTokens !== null) body.max_tokens = settings.maxTokens;
  if (settings.choices > 1) body.n = settings.choices;
  if (settings.probabilities) Object.assign(body, { logprobs: true, top_logprobs: 5 });
  const { tools } = toolsOf(settings);
  if (tools.length > 0) body.tools = tools;
  return body;
}

interface Chunk {
  choices?: {
    index: number;
    delta?: { content?: string | null; reasoning_content?: string | null; tool_calls?: { index: number; id?: string; function?: { name?: string; arguments?: string } }[] };
    logprobs?: { content?: { token: string; logprob: number; top_logprobs?: { token: string; logprob: number }[] }[] } | null;
    finish_reason?: string | null;
  }[];
  usage?: { prompt_tokens: number; completion_tokens: number; prompt_tokens_details?: { cached_tokens?: number } } | null;
  error?: { message?: string };
}

/** Adds a chunk of a stream to the choices. Returns the usage where it has it. Throws what the server says is wrong. */
export function addChunk(choices: Choice[], data: string): Chunk["usage"] {
  const chunk = JSON.parse(data) as Chunk;
  if (chunk.error !== undefined) throw new Error(chunk.error.message ?? "the server ended the answer");
  for (const part of chunk.choices ?? []) {
    while (choices.length <= part.index) choices.push(emptyChoice());
    const choice = choices[part.index]!;
    choice.content += part.delta?.content ?? "";
    choice.reasoning += part.delta?.reasoning_content ?? "";
    for (const call of part.delta?.tool_calls ?? []) {
      while (choice.calls.length <= call.index) choice.calls.push({ id: "", name: "", arguments: "" });
      const known = choice.calls[call.index]!;
      known.id ||= call.id ?? "";
      known.name ||= call.function?.name ?? "";
      known.arguments += call.function?.arguments ?? "";
    }
    for (const token of part.logprobs?.content ?? []) {
      choice.tokens.push({ text: token.token, logprob: token.logprob, top: (token.top_logprobs ?? []).map((top) => ({ text: top.token, logprob: top.logprob })) });
    }
    if (part.finish_reason != null) choice.reason = part.finish_reason;
  }
  return chunk.usage ?? null;
}

export function asMarkdown(conversation: Conversation): string {
  const parts = [`# ${conversation.title}`];
  if (conversation.settings.system !== "") parts.push(`> ${conversation.settings.system.replaceAll("\n", "\n> ")}`);
  for (const turn of conversation.turns) {
    if (turn.role === "user") parts.push(`**You**\n\n${turn.text}`);
    if (turn.role === "tool") parts.push(`**${turn.name} gave**\n\n\`\`\`\n${turn.text}\n\`\`\``);
    if (turn.role !== "assistant") continue;
    const choice = turn.choices[turn.chosen];
    if (choice === undefined) continue;
    parts.push(`**Answer**\n\n${choice.content}`);
    for (const call of choice.calls) parts.push(`\`${call.name}(${call.arguments})\``);
  }
  return `${parts.join("\n\n")}\n`;
}

const STORED = "shoal.chats";
const STORED_MAX = 60;

export function loadConversations(storage: Storage): Conversation[] {
  try {
    const list = JSON.parse(storage.getItem(STORED) ?? "[]") as Conversation[];
    return Array.isArray(list) ? list.filter((one) => typeof one.id === "string" && Array.isArray(one.turns)).map((one) => ({ ...one, settings: { ...USUAL, ...one.settings } })) : [];
  } catch {
    return [];
  }
}

/** Keeps the newest, as many as there is room for. False: there is none. */
export function saveConversations(storage: Storage, list: Conversation[]): boolean {
  const kept = list
    .filter((one) => one.turns.length > 0)
    .sort((a, b) => b.at - a.at)
    .slice(0, STORED_MAX)
    .map((one) => ({ ...one, turns: one.turns.map((turn) => (turn.role === "assistant" ? { ...turn, choices: turn.choices.map((choice) => ({ ...choice, tokens: [] })) } : turn)) }));
  for (let n = kept.length; n >= 0; n = n === 0 ? -1 : Math.floor(n / 2)) {
    try {
      storage.setItem(STORED, JSON.stringify(kept.slice(0, n)));
      return n === kept.length;
    } catch {
      // No room: with fewer.
    }
  }
  return false;
}
