// All that the page asks of the server: same origin, with the key that a person gave, for as long as this tab is open.

const KEY = "shoal.key";
const GET_TIMEOUT_MS = 4000;

export class ApiFailure extends Error {
  constructor(
    readonly status: number, // 0: not reached.
    message: string,
  ) {
    super(message);
  }
}

/** What went wrong, for people. */
export function messageOf(failure: unknown): string {
  return failure instanceof Error ? failure.message : String(failure);
}

export function apiKey(): string {
  return sessionStorage.getItem(KEY) ?? "";
}
export function setApiKey(key: string): void {
  if (key === "") sessionStorage.removeItem(KEY);
  else sessionStorage.setItem(KEY, key);
}

/** Of several models, the one that is looked at; "" where the server has one. */
let chosenModel = "";
export function setModel(name: string): void {
  chosenModel = name;
}
export function model(): string {
  return chosenModel;
}

function withModel(path: string): string {
  if (chosenModel === "") return path;
  return `${path}${path.includes("?") ? "&" : "?"}model=${encodeURIComponent(chosenModel)}`;
}

export async function send(path: string, init: RequestInit, timeoutMs: number | null, signal?: AbortSignal): Promise<Response> {
  const headers = new Headers(init.headers);
  if (apiKey() !== "") headers.set("Authorization", `Bearer ${apiKey()}`);
  const signals = [signal, timeoutMs === null ? undefined : AbortSignal.timeout(timeoutMs)].filter((one) => one !== undefined);
  let response: Response;
  try {
    response = await fetch(path, { ...init, headers, signal: AbortSignal.any(signals), cache: "no-store", credentials: "omit" });
  } catch (error) {
    if (signal?.aborted === true) throw error;
    const late = error instanceof DOMException && error.name === "TimeoutError";
    throw new ApiFailure(0, late ? "the server did not answer in time" : "the server cannot be reached");
  }
  if (response.ok) return response;
  throw new ApiFailure(response.status, await reasonOf(response));
}

async function reasonOf(response: Response): Promise<string> {
  const text = await response.text().catch(() => "");
  try {
    const body = JSON.parse(text);
    return body.error?.message ?? body.reason ?? `HTTP ${response.status}`;
  } catch {
    return text.slice(0, 300) || `HTTP ${response.status}`;
  }
}

function get(path: string): Promise<Response> {
  return send(withModel(path), {}, GET_TIMEOUT_MS);
}
export async function getJson<T>(path: string): Promise<T> {
  return (await get(path)).json();
}
export async function getText(path: string): Promise<string> {
  return (await get(path)).text();
}
/** A POST of this body. */
export function posted(body: object): RequestInit {
  return { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(body) };
}
export async function postJson<T>(path: string, body: object, timeoutMs = 10000, signal?: AbortSignal): Promise<T> {
  const whole = chosenModel === "" ? body : { model: chosenModel, ...body };
  return (await send(path, posted(whole), timeoutMs, signal)).json();
}

export interface Link {
  a: string;
  b: string;
  rtt_us: number;
  mbs: number;
}
export interface Predicted {
  tokens_per_s_1: number;
  tokens_per_s_16: number;
  ttft_2k_s: number;
  ttft_16k_s: number;
  bound_1: string;
  bound_16: string;
  error?: string;
}
export interface ClusterNode {
  name: string;
  address: string;
  role: "coordinator" | "worker";
  state: string;
  joined?: boolean;
  error?: string;
  loading?: { bytes: number; total_bytes: number };
  fetching?: { bytes: number; total_bytes: number };
  rank: number | null;
  layers: [number, number] | null;
  experts: number;
  memory_bytes?: number;
  device?: string;
  isa?: string;
  threads?: number;
  weight_bytes?: number;
  resident_bytes?: number;
  steps?: number;
  out?: { since: number; for_s: number; why: string; drained: boolean };
  kv_buddy?: { name: string; bytes_max: number };
}
export interface ClusterStatus {
  status: "up" | "down";
  degraded: boolean;
  error?: string;
  generation: number;
  model: { name: string; layers: number; context: number; vocabulary: number; activations?: string; mtp?: boolean };
  cache: { blocks: number; positions_per_block: number; state_slots: number; dtype?: string };
  wire?: { rows: string; bits_depend_on_placement: boolean };
  nodes: ClusterNode[];
  move?: { why: string; error?: string };
  predicted: Partial<Predicted>;
  links: Link[];
  plan: string[];
}
export interface ClusterEvent {
  id: number;
  at: number;
  kind: string;
  node: string;
  text: string;
}
export interface LogLine {
  node: string;
  id: number;
  at: number; // Unix milliseconds, by the node's clock.
  level: string;
  text: string;
}
export interface NodeLog {
  name: string;
  lines: Omit<LogLine, "node">[];
  error?: string;
}
export interface Finding {
  node: string;
  check: string;
  verdict: "ok" | "advice" | "wrong";
  text: string;
  remedy: string;
}
export interface Examination {
  at: number;
  ok: boolean | null;
  findings: Finding[] | null; // null: there was none so far.
}
export interface Counts {
  rows: number;
  rows_local: number;
  local_share: number;
  rows_sent: number;
  messages: number;
}
export interface ExpertLayer {
  layer: number;
  of_this_plan: Counts;
  rows: number[];
  node?: number;
  owners?: number[];
  replicas?: Record<string, number[]>;
  hottest: number[];
  sampled_rows: number;
  together: { experts: [number, number]; share: number }[];
}
export interface ExpertReport {
  since_start: Counts;
  of_this_plan: Counts;
  nodes: string[];
  layers: ExpertLayer[];
}
export interface Strategy {
  name: string;
  error?: string;
  chosen?: boolean;
  layers?: number[];
  experts?: string;
  sequences_2k?: number | null;
  bytes_max?: number;
  messages_max?: number;
  nodes?: { name: string; weight_bytes: number; memory_bytes: number; headroom_bytes: number | null }[];
  predicted?: Predicted | null;
}
export interface PlanReport {
  plan: {
    nodes: { name: string }[];
    stages: { node: string; layers: [number, number] }[];
    experts?: { layers: [number, number]; owners: Record<string, string>; replicas?: Record<string, string> }[];
    notes?: string[];
  };
  kv_positions: number;
  sequences: number;
  nodes: { name: string; layers: [number, number]; weight_bytes: number; kv_bytes: number; state_bytes: number; total_bytes: number }[];
  per_token: { messages_max: number; hops: number; expert_calls_max: number; bytes_max: number };
  strategies: Strategy[];
  experts: { name: string; error?: string; messages_per_token?: number; local_share?: number; imbalance?: number; copies?: number }[];
  not_predicted: string;
  links_assumed: boolean;
  conclusions: string[];
  predicted: Partial<Predicted>;
  facts: { name: string; memory_bytes: number; device: string; rates: { read_gbs: number; int8_gops: number; f32_gflops: number } | null; added: boolean }[];
  links: Link[];
}
export interface PlanQuestion {
  layers?: Record<string, number>;
  experts?: string;
  add?: { name: string; memory_bytes: number; read_gbs?: number; int8_gops?: number; f32_gflops?: number; rtt_us?: number; mbs?: number }[];
  compare?: boolean;
}
export interface ModelEntry {
  id: string;
  status?: { value: string };
  max_model_len: number | null;
}
