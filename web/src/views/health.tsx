// Whether the server is well: latencies, queue, cache, what stages do with their time, what answers came to.

import { useState } from "preact/hooks";
import type { ClusterStatus } from "../api";
import { bytes, count, percent, seconds, short } from "../lib/format";
import { type Histogram, type Scrape, growth, histogram, observations, quantile, since, total } from "../lib/metrics";
import { Card, Empty, Figure, Spark, Stack } from "../parts";
import { type State, useStore } from "../store";
import { toneOf, windowOf } from "./cluster";
import { Doctor, Logs } from "./logs";

const LATENCIES = [
  { name: "Time to first token", metric: "shoal_time_to_first_token_seconds" },
  { name: "Between tokens", metric: "shoal_inter_token_latency_seconds" },
  { name: "Whole request", metric: "shoal_request_seconds" },
  { name: "Step", metric: "shoal_step_seconds" },
];
const QUANTILES = [0.5, 0.9, 0.99];

function newest(state: Pick<State, "moments">): Scrape | null {
  return state.moments.at(-1)?.scrape ?? null;
}

function Latencies(props: { state: State }) {
  const [recent, setRecent] = useState(false);
  const { moments } = props.state;
  const first = moments[0];
  const now = moments[moments.length - 1];
  if (now === undefined || first === undefined) return <p class="note">Two looks are needed first.</p>;
  const of = (metric: string): Histogram => {
    const all = histogram(now.scrape, metric);
    return recent ? since(histogram(first.scrape, metric), all) : all;
  };
  return (
    <>
      <div class="segments" role="group" aria-label="Since">
        <button type="button" aria-pressed={!recent} onClick={() => setRecent(false)}>since the start</button>
        <button type="button" aria-pressed={recent} onClick={() => setRecent(true)}>last {Math.max(1, Math.round(now.at - first.at))} s</button>
      </div>
      <div class="table-wrap" tabIndex={0} role="region" aria-label="Latencies">
        <table>
          <thead><tr><th scope="col"><span class="sr-only">What</span></th>{QUANTILES.map((q) => <th key={q} scope="col" class="num">p{100 * q}</th>)}<th scope="col" class="num">mean</th><th scope="col" class="num">count</th></tr></thead>
          <tbody>
            {LATENCIES.map(({ name, metric }) => {
              const histo = of(metric);
              const n = observations(histo);
              return (
                <tr key={metric}>
                  <th scope="row">{name}</th>
                  {QUANTILES.map((q) => <td key={q} class="num">{seconds(quantile(histo, q))}</td>)}
                  <td class="num">{n > 0 ? seconds(histo.sum / n) : "–"}</td>
                  <td class="num">{short(n)}</td>
                </tr>
              );
            })}
          </tbody>
        </table>
      </div>
      <p class="note">Quantiles are read off the buckets of <code>/metrics</code>, so they are as fine as those.</p>
    </>
  );
}

function Blocks(props: { state: State; status: ClusterStatus }) {
  const scrape = newest(props.state);
  const of = (state: string) => total(scrape, "shoal_kv_blocks", { state });
  const used = of("used");
  const cached = of("cached");
  const free = of("free");
  const all = used + cached + free;
  const hits = total(scrape, "shoal_prefix_cache_lookups_total", { result: "hit" });
  const lookups = hits + total(scrape, "shoal_prefix_cache_lookups_total", { result: "miss" });
  if (all === 0) return <Empty title="No cache yet">Blocks are there once a session is open.</Empty>;
  return (
    <>
      <Stack
        label="Blocks of the cache"
        slices={[
          { name: "used", value: used, tone: "tone-0", text: short(used) },
          { name: "cached", value: cached, tone: "tone-2", text: short(cached) },
          { name: "free", value: free, tone: "tone-free", text: short(free) },
        ]}
      />
      <dl class="facts">
        <div><dt>Room</dt><dd>{short(all * props.status.cache.positions_per_block)} positions</dd></div>
        <div><dt>Began from cached tokens</dt><dd>{lookups > 0 ? percent(hits / lookups) : "–"}</dd></div>
        <div><dt>Tokens not computed again</dt><dd>{short(total(scrape, "shoal_prefix_cache_tokens_reused_total"))}</dd></div>
        <div><dt>Preemptions</dt><dd>{short(total(scrape, "shoal_preemptions_total"))}</dd></div>
      </dl>
    </>
  );
}

function Stages(props: { state: State; status: ClusterStatus }) {
  const scrape = newest(props.state);
  const span = windowOf(props.state.moments);
  const nodes = [...new Set((scrape?.get("shoal_stage_busy_seconds_sum") ?? []).map((sample) => sample.labels.node!))];
  if (nodes.length === 0) return <Empty title="No steps so far" />;
  const mean = (name: string, node: string) => {
    const n = total(scrape, `${name}_count`, { node });
    return n > 0 ? total(scrape, `${name}_sum`, { node }) / n : null;
  };
  return (
    <div class="table-wrap" tabIndex={0} role="region" aria-label="Time of stages by part">
      <table>
        <thead><tr><th scope="col">Stage</th><th scope="col" class="num">Computes, a step</th><th scope="col" class="num">Waits for experts</th><th scope="col" class="num">Waits for a grammar</th><th scope="col" class="num">Steps/s now</th></tr></thead>
        <tbody>
          {nodes.map((node) => (
            <tr key={node}>
              <th scope="row"><span class={`swatch ${toneOf(props.status, node)}`} aria-hidden="true" />{node}</th>
              <td class="num">{seconds(mean("shoal_stage_busy_seconds", node))}</td>
              <td class="num">{seconds(mean("shoal_stage_expert_wait_seconds", node))}</td>
              <td class="num">{seconds(mean("shoal_stage_mask_wait_seconds", node))}</td>
              <td class="num">{span === null ? "–" : short(growth(span.before.scrape, span.after.scrape, "shoal_stage_busy_seconds_count", { node }) / (span.after.at - span.before.at))}</td>
            </tr>
          ))}
        </tbody>
      </table>
    </div>
  );
}

interface Check {
  well: boolean;
  what: string;
  text: string;
}

/** What can be told from here without asking any machine more than it says anyway. */
export function checksOf(status: ClusterStatus, state: Pick<State, "moments">): Check[] {
  const scrape = newest(state);
  const checks: Check[] = [];
  const add = (well: boolean, what: string, good: string, bad: string) => checks.push({ well, what, text: well ? good : bad });
  add(status.status === "up", "Session", "Steps can be run.", status.error ?? "The cluster is down.");
  const out = status.nodes.filter((node) => node.out !== undefined && node.out.drained !== true);
  add(out.length === 0, "Nodes", "Plans count on all nodes.", out.map((node) => `${node.name}: ${node.out!.why}`).join("; "));
  const full = status.nodes.filter((node) => (node.memory_bytes ?? 0) > 0 && (node.weight_bytes ?? 0) > 0.97 * node.memory_bytes!);
  add(full.length === 0, "Memory", "Every node has room beside its weights.", `${full.map((node) => node.name).join(", ")}: weights take nearly all that it may use (${full.map((node) => bytes(node.memory_bytes)).join(", ")}).`);
  const losses = total(scrape, "shoal_engine_losses_total");
  add(losses === 0, "Losses", "The cluster was never lost since the start.", `The cluster was lost ${count(losses, "time")} since the start.`);
  const errors = (scrape?.get("shoal_http_responses_total") ?? []).filter((sample) => Number(sample.labels.status) >= 500 && sample.labels.route !== "/health");
  const failed = errors.reduce((sum, sample) => sum + sample.value, 0);
  add(failed === 0, "Answers", "No answer was a server's error.", `${count(failed, "answer")} with status 500 or above.`);
  const clamped = total(scrape, "shoal_kv_saturated_total");
  add(clamped === 0, "Numbers", "No key or value was beyond the cache's range.", `${short(clamped)} keys and values were clamped: --kv-dtype bf16 or f32 has their range.`);
  if (status.wire !== undefined) add(!status.wire.bits_depend_on_placement, "Bits", "Rows travel exactly: answers do not depend on the placement.", `Rows travel as ${status.wire.rows}: answers depend on the placement.`);
  return checks;
}

function Answers(props: { state: State }) {
  const scrape = newest(props.state);
  const byRoute = new Map<string, { good: number; refused: number; failed: number }>();
  for (const sample of scrape?.get("shoal_http_responses_total") ?? []) {
    const route = sample.labels.route ?? "other";
    if (!route.startsWith("/v1/") && !route.startsWith("/api/") && route !== "/generate" && route !== "/infill") continue;
    const row = byRoute.get(route) ?? { good: 0, refused: 0, failed: 0 };
    const status = Number(sample.labels.status);
    row[status >= 500 ? "failed" : status >= 400 ? "refused" : "good"] += sample.value;
    byRoute.set(route, row);
  }
  const rows = [...byRoute].sort((a, b) => b[1].good - a[1].good).slice(0, 8);
  if (rows.length === 0) return <Empty title="No requests so far" />;
  return (
    <div class="table-wrap" tabIndex={0} role="region" aria-label="Answers">
      <table>
        <thead><tr><th scope="col">Route</th><th scope="col" class="num">Answered</th><th scope="col" class="num">Refused</th><th scope="col" class="num">Failed</th></tr></thead>
        <tbody>{rows.map(([route, row]) => <tr key={route}><th scope="row"><code>{route}</code></th><td class="num">{short(row.good)}</td><td class="num">{short(row.refused)}</td><td class={`num ${row.failed > 0 ? "is-bad" : ""}`}>{short(row.failed)}</td></tr>)}</tbody>
      </table>
    </div>
  );
}

export function HealthView() {
  const state = useStore();
  const status = state.status;
  if (status === null) return null;
  const scrape = newest(state);
  const ttft = histogram(scrape, "shoal_time_to_first_token_seconds");
  const itl = histogram(scrape, "shoal_inter_token_latency_seconds");
  const wait = total(scrape, "shoal_queue_seconds");
  const rate = state.rates[state.rates.length - 1];
  const checks = checksOf(status, state);
  return (
    <div class="grid">
      <section class="figures span-all" aria-label="Now">
        <Figure name="First token, p90" value={seconds(quantile(ttft, 0.9))} note="since the start" />
        <Figure name="Between tokens, p90" value={seconds(quantile(itl, 0.9))} note="since the start" />
        <Figure name="Queue" value={short(rate?.queue ?? 0)} unit="wait" note={wait > 0 ? `one that comes now waits ${seconds(wait)}` : "one that comes now begins at once"}><Spark values={state.rates.map((one) => one.queue)} /></Figure>
        <Figure name="Running" value={short(rate?.running ?? 0)}><Spark values={state.rates.map((one) => one.running)} /></Figure>
      </section>
      <Card title="Latency" class="span-2"><Latencies state={state} /></Card>
      <Card title="Checks" note={"What the coordinator's own counts show."}>
        <ul class="checks">
          {checks.map((check) => (
            <li key={check.what} class={check.well ? "check-good" : "check-bad"}>
              <span aria-hidden="true">{check.well ? "✓" : "!"}</span>
              <span><b>{check.what}</b> <span class="sr-only">{check.well ? "well" : "look here"}:</span> {check.text}</span>
            </li>
          ))}
        </ul>
      </Card>
      <Card title="KV cache"><Blocks state={state} status={status} /></Card>
      <Card title="Answers" class="span-2"><Answers state={state} /></Card>
      <Card title="Stages" class="span-all"><Stages state={state} status={status} /></Card>
      <Doctor />
      <Logs />
    </div>
  );
}
