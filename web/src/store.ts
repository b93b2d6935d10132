// What the page knows of the cluster, asked again and again while somebody looks.

import { useEffect, useState } from "preact/hooks";
import { ApiFailure, type ClusterEvent, type ClusterStatus, type ModelEntry, getJson, getText, setModel } from "./api";
import { type Scrape, growth, parseScrape, total } from "./lib/metrics";

export interface Moment {
  at: number; // Seconds, of this browser's monotonic clock.
  scrape: Scrape;
}
/** What passed between two moments. */
export interface Rates {
  tokens: number; // Generated, per second.
  steps: number;
  running: number;
  queue: number;
}
export interface State {
  status: ClusterStatus | null;
  statusError: ApiFailure | null;
  events: ClusterEvent[]; // Newest first.
  moments: Moment[]; // Oldest first.
  rates: Rates[];
  models: ModelEntry[];
  model: string;
  reachedAt: number; // Unix seconds; 0: never.
  unauthorized: boolean;
}

const MOMENTS_MAX = 90;
const EVENTS_MAX = 512;
const PAUSE_MS = 1000;
const STATUS_EVERY = 2; // Beats: it asks every node.
const MODELS_EVERY = 10;

let state: State = {
  status: null, statusError: null, events: [], moments: [], rates: [], models: [], model: "", reachedAt: 0, unauthorized: false,
};
const listeners = new Set<() => void>();
let last = 0;
let beat = 0;
let timer: ReturnType<typeof setTimeout> | undefined;

function change(part: Partial<State>): void {
  state = { ...state, ...part };
  for (const listener of listeners) listener();
}

export function useStore(): State {
  const [now, set] = useState(state);
  useEffect(() => {
    const listener = () => set(state);
    listeners.add(listener);
    listener();
    return () => void listeners.delete(listener);
  }, []);
  return now;
}

export function chooseModel(name: string): void {
  setModel(name);
  last = 0;
  change({ model: name, status: null, events: [], moments: [], rates: [] });
  wake();
}

function ratesBetween(before: Moment | undefined, after: Moment): Rates {
  const passed = before === undefined ? 1 : Math.max(after.at - before.at, 0.1);
  const grown = (name: string) => (before === undefined ? 0 : growth(before.scrape, after.scrape, name) / passed);
  return {
    tokens: grown("shoal_generated_tokens_total"),
    steps: grown("shoal_steps_total"),
    running: total(after.scrape, "shoal_running_requests"),
    queue: total(after.scrape, "shoal_queue_requests"),
  };
}

function keep<T>(list: T[], one: T): T[] {
  return [...list.slice(-(MOMENTS_MAX - 1)), one];
}

async function askEvents(): Promise<boolean> {
  const news = await getJson<{ last: number; events: ClusterEvent[] }>(`/cluster/events?after=${last}`);
  if (news.last < last) {
    last = 0; // Another server than before: its events begin at 1.
    change({ events: [] });
    return askEvents();
  }
  last = news.last;
  if (news.events.length > 0) change({ events: [...news.events.reverse(), ...state.events].slice(0, EVENTS_MAX) });
  return news.events.length > 0;
}

async function askMetrics(): Promise<void> {
  const moment = { at: performance.now() / 1000, scrape: parseScrape(await getText("/metrics")) };
  const rates = ratesBetween(state.moments[state.moments.length - 1], moment);
  change({ moments: keep(state.moments, moment), rates: keep(state.rates, rates) });
}

async function askModels(): Promise<void> {
  const list = await getJson<{ data: ModelEntry[] }>("/v1/models");
  change({ models: list.data });
  if (list.data.length < 2 || list.data.some((one) => one.id === state.model)) return;
  chooseModel((list.data.find((one) => one.status?.value === "loaded") ?? list.data[0]!).id);
}

async function askAll(): Promise<void> {
  if (beat % MODELS_EVERY === 0) await askModels();
  const news = await askEvents();
  const asked: Promise<void>[] = [askMetrics()];
  if (news || beat % STATUS_EVERY === 0)
    asked.push(getJson<ClusterStatus>("/cluster/status").then((status) => change({ status })));
  beat++;
  await Promise.all(asked);
}

async function tick(): Promise<void> {
  if (!document.hidden) {
    try {
      await askAll();
      change({ statusError: null, unauthorized: false, reachedAt: Date.now() / 1000 });
    } catch (error) {
      beat++;
      const failure = error instanceof ApiFailure ? error : new ApiFailure(0, String(error));
      change({ statusError: failure, unauthorized: failure.status === 401 || failure.status === 403 });
    }
  }
  timer = setTimeout(() => void tick(), PAUSE_MS);
}

/** Asks at once, and goes on from there. */
export function wake(): void {
  if (timer === undefined) return;
  clearTimeout(timer);
  beat = 0;
  timer = setTimeout(() => void tick(), 0);
}

export function startPolling(): void {
  if (timer !== undefined) return;
  timer = setTimeout(() => void tick(), 0);
  document.addEventListener("visibilitychange", () => {
    if (!document.hidden) wake();
  });
}
