// The cluster as it is now: who runs what, how far apart they are, what tokens wait for, and what happened.

import { useEffect, useRef } from "preact/hooks";
import { type ClusterNode, type ClusterStatus, type Link, getJson } from "../api";
import { ago, bytes, clock, count, percent, seconds, short } from "../lib/format";
import { growth } from "../lib/metrics";
import { arc, lane, layout, ring } from "../lib/topology";
import { Card, Empty, Figure, Meter, Spark, Stack, tone, useWidth } from "../parts";
import { type Moment, type State, useStore, wake } from "../store";
import { startTokens } from "./tokens";

/** Moments between which shares are taken: long enough to be calm. */
const WINDOW = 8;

export function windowOf(moments: Moment[]): { before: Moment; after: Moment } | null {
  const after = moments[moments.length - 1];
  const before = moments[Math.max(0, moments.length - 1 - WINDOW)];
  return after === undefined || before === undefined || after === before ? null : { before, after };
}

/** Those with layers in the order of the pipeline, then those that only hold experts, or nothing. */
export function ordered(nodes: ClusterNode[]): ClusterNode[] {
  const key = (node: ClusterNode) => (node.layers !== null ? node.layers[0] : node.role === "coordinator" ? -1 : 1e6);
  return [...nodes].sort((a, b) => key(a) - key(b));
}

/** The colour of a node is that of its place among the members, whatever the plan. */
export function toneOf(status: ClusterStatus, name: string): string {
  return tone(status.nodes.findIndex((node) => node.name === name));
}

export interface StageTimes {
  node: string;
  busy: number; // Shares of the time that passed.
  wait: number;
}

export function stageTimes(moments: Moment[]): StageTimes[] {
  const span = windowOf(moments);
  if (span === null) return [];
  const passed = Math.max(span.after.at - span.before.at, 0.1);
  const nodes = new Set((span.after.scrape.get("shoal_stage_busy_seconds_sum") ?? []).map((sample) => sample.labels.node!));
  const grown = (name: string, node: string) => growth(span.before.scrape, span.after.scrape, name, { node }) / passed;
  return [...nodes].map((node) => ({
    node,
    busy: grown("shoal_stage_busy_seconds_sum", node),
    wait: grown("shoal_stage_expert_wait_seconds_sum", node),
  }));
}

function linkOf(links: Link[], a: string, b: string): Link | undefined {
  return links.find((link) => (link.a === a && link.b === b) || (link.a === b && link.b === a));
}

function linkText(link: Link): string {
  return `${seconds(link.rtt_us * 1e-6)}${link.mbs > 0 ? ` · ${short(link.mbs)} MB/s` : ""}`;
}

function isAway(node: ClusterNode): boolean {
  return node.state === "lost" || node.state === "failed" || node.out !== undefined;
}

function wordOf(node: ClusterNode): string {
  if (node.out?.drained === true) return "drained";
  if (node.out !== undefined) return node.state === "lost" ? "lost, out" : "out";
  const load = node.loading ?? node.fetching;
  if (load !== undefined && load.total_bytes > 0) return `loading ${percent(load.bytes / load.total_bytes)}`;
  return node.state;
}

function Topology(props: { status: ClusterStatus; stages: StageTimes[]; steps: number; running: number }) {
  const { status, stages } = props;
  const [box, seen] = useWidth(900);
  const width = Math.max(280, seen);
  const svg = useRef<SVGSVGElement>(null);

  const nodes = ordered(status.nodes);
  const plan = layout(nodes.map((node) => node.memory_bytes ?? null), width);
  const inPipeline = nodes.map((node, i) => ({ node, place: plan.places[i]! })).filter((one) => one.node.layers !== null && !isAway(one.node));
  const coordinator = nodes.findIndex((node) => node.role === "coordinator");
  const hops: { from: number; to: number; back: boolean }[] = [];
  const order = inPipeline.map((one) => nodes.indexOf(one.node));
  if (order.length > 0 && order[0] !== coordinator) order.unshift(coordinator);
  for (let i = 0; i + 1 < order.length; i++) hops.push({ from: order[i]!, to: order[i + 1]!, back: false });
  if (order.length > 1) hops.push({ from: order[order.length - 1]!, to: order[0]!, back: true });

  const key = hops.map((hop) => `${hop.from}-${hop.to}`).join(" ") + width;
  const rate = status.status === "up" ? props.steps : 0;
  useEffect(() => startTokens(svg.current!, () => rateNow.current), [key]);
  const rateNow = useRef(rate);
  rateNow.current = rate;

  const describe = nodes.map((node) => `${node.name}: ${wordOf(node)}${node.layers === null ? "" : `, layers ${node.layers[0]} to ${node.layers[1] - 1}`}, ${bytes(node.memory_bytes)}`);
  return (
    <div ref={box} class="topology">
      <svg ref={svg} viewBox={`0 0 ${plan.width} ${plan.height}`} width={plan.width} height={plan.height} role="img" aria-label={`The cluster. ${describe.join(". ")}`}>
        <g class="hops">
          {hops.map((hop) => {
            const from = plan.places[hop.from]!;
            const to = plan.places[hop.to]!;
            const link = linkOf(status.links ?? [], nodes[hop.from]!.name, nodes[hop.to]!.name);
            const d = hop.back ? lane(plan, from, to) : arc(from, to);
            return (
              <g key={`${hop.from}-${hop.to}`}>
                <path class={`hop ${hop.back ? "hop-back" : ""}`} d={d} />
                {link !== undefined && !hop.back && (
                  <text class={`hop-label ${plan.beside ? "beside" : ""}`} x={(from.x + to.x) / 2 + (plan.beside ? 20 : 0)} y={(from.y + to.y) / 2 + (from.y === to.y ? -26 : 4)}>{linkText(link)}</text>
                )}
              </g>
            );
          })}
        </g>
        <g class="tokens" aria-hidden="true" />
        {nodes.map((node, i) => {
          const place = plan.places[i]!;
          const stage = stages.find((one) => one.node === node.name);
          const away = isAway(node);
          const nameX = place.x + place.r + 20;
          return (
            <g key={node.name} class={`node ${away ? "node-away" : ""} ${toneOf(status, node.name)}`} data-node={node.name} data-state={wordOf(node)}>
              <title>{describe[i]}</title>
              <circle class="node-body" cx={place.x} cy={place.y} r={place.r} />
              {!away && stage !== undefined && (
                <>
                  <path class="node-busy" d={ring(place, place.r + 5, stage.busy)} />
                  {stage.wait > 0.005 && <path class="node-wait" d={ring(place, place.r + 10, stage.wait)} />}
                </>
              )}
              {away && <path class="node-cross" d={`M${place.x - 9} ${place.y - 9}l18 18m0-18l-18 18`} />}
              {!away && (
                <text class="node-layers" x={place.x} y={place.y + 5}>
                  {node.layers === null ? (node.experts > 0 ? "E" : "–") : `${node.layers[0]}–${node.layers[1] - 1}`}
                </text>
              )}
              <text class={`node-name ${plan.beside ? "beside" : ""}`} x={plan.beside ? nameX : place.x} y={plan.beside ? place.y - 2 : place.y + place.r + 28}>{node.name}</text>
              <text class={`node-state ${plan.beside ? "beside" : ""} ${away ? "is-bad" : ""}`} x={plan.beside ? nameX : place.x} y={plan.beside ? place.y + 16 : place.y + place.r + 45}>
                {node.state === "up" && !away ? bytes(node.memory_bytes) : wordOf(node)}
              </text>
            </g>
          );
        })}
      </svg>
    </div>
  );
}

/** All layers as one strip, coloured by who runs them. */
export function LayerStrip(props: { status: ClusterStatus }) {
  const { status } = props;
  const layers = status.model.layers;
  const stages = ordered(status.nodes).filter((node) => node.layers !== null);
  const cell = 1000 / Math.max(layers, 1);
  const gap = layers <= 100 ? 2 : 0;
  return (
    <div class="strip-wrap">
      <svg class="strip" viewBox="0 0 1000 24" preserveAspectRatio="none" role="img" aria-label={`Layers: ${stages.map((node) => `${node.layers![0]} to ${node.layers![1] - 1} on ${node.name}`).join(", ")}`}>
        {stages.flatMap((node) =>
          Array.from({ length: node.layers![1] - node.layers![0] }, (_, i) => {
            const layer = node.layers![0] + i;
            return (
              <rect key={layer} class={`fill ${toneOf(status, node.name)} ${isAway(node) ? "is-away" : ""}`} x={layer * cell} width={cell - gap} height="24">
                <title>{`layer ${layer}: ${node.name}`}</title>
              </rect>
            );
          }),
        )}
      </svg>
      <ul class="legend">
        {stages.map((node) => (
          <li key={node.name}>
            <span class={`swatch ${toneOf(status, node.name)}`} aria-hidden="true" />
            {node.name} <b>{count(node.layers![1] - node.layers![0], "layer")}</b>
            {node.experts > 0 && <span class="dim"> · {count(node.experts, "expert")}</span>}
          </li>
        ))}
      </ul>
    </div>
  );
}

/** Where the time of a step goes, from its submit to its result. */
function Waits(props: { state: State }) {
  const span = windowOf(props.state.moments);
  if (span === null) return <p class="note">Two looks are needed first.</p>;
  const grown = (name: string, labels = {}) => growth(span.before.scrape, span.after.scrape, name, labels);
  const steps = grown("shoal_step_seconds_count");
  if (steps < 1) return <Empty title="No steps now">Send a message in the chat, and see where its tokens spend their time.</Empty>;
  const status = props.state.status!;
  const whole = grown("shoal_step_seconds_sum") / steps;
  const order = ordered(status.nodes).map((node) => node.name);
  const times = stageTimes(props.state.moments).sort((a, b) => order.indexOf(a.node) - order.indexOf(b.node));
  const stages = times.map((stage) => ({
    name: `${stage.node} computes`,
    value: grown("shoal_stage_busy_seconds_sum", { node: stage.node }) / steps,
    tone: toneOf(status, stage.node),
  }));
  const experts = grown("shoal_stage_expert_wait_seconds_sum") / steps;
  const masks = grown("shoal_stage_mask_wait_seconds_sum") / steps;
  const known = stages.reduce((sum, part) => sum + part.value, experts + masks);
  const parts = [
    ...stages,
    { name: "for others' experts", value: experts, tone: "tone-wait" },
    { name: "for a grammar", value: masks, tone: "tone-6" },
    { name: "on the way, and for a turn", value: Math.max(0, whole - known), tone: "tone-none" },
  ].filter((part) => part.value > 0);
  return (
    <>
      <p class="lead"><b>{seconds(whole)}</b> a step, from the scheduler and back</p>
      <Stack label="A step's time" slices={parts.map((part) => ({ ...part, text: `${seconds(part.value)} (${percent(part.value / Math.max(whole, known))})` }))} />
    </>
  );
}

const KIND_TONE: Record<string, string> = {
  lost: "bad", failed: "bad", down: "bad", move_failed: "bad", gone: "warn", out: "warn", up: "good", session: "good", back: "good",
};

function Timeline(props: { state: State }) {
  const now = Date.now() / 1000;
  const { events } = props.state;
  if (events.length === 0) return <Empty title="Nothing has happened yet" />;
  return (
    <ol class="timeline" tabIndex={0} aria-label="Events, newest first" aria-live="polite" aria-relevant="additions">
      {events.slice(0, 60).map((event) => (
        <li key={event.id} class={`event event-${KIND_TONE[event.kind] ?? "plain"}`} data-kind={event.kind} data-node={event.node}>
          <time dateTime={new Date(event.at * 1000).toISOString()} title={clock(event.at)}>{ago(event.at, now)}</time>
          <span class="event-what" title={event.text}>{event.node !== "" && <b>{event.node} </b>}{event.text}</span>
        </li>
      ))}
    </ol>
  );
}

function NodeTable(props: { status: ClusterStatus; stages: StageTimes[] }) {
  return (
    <div class="table-wrap" tabIndex={0} role="region" aria-label="Nodes">
      <table>
        <thead>
          <tr><th scope="col">Node</th><th scope="col">State</th><th scope="col">Layers</th><th scope="col" class="num">Weights of memory</th><th scope="col" class="num">Busy</th><th scope="col" class="num">Waits</th><th scope="col">Machine</th></tr>
        </thead>
        <tbody>
          {ordered(props.status.nodes).map((node) => {
            const stage = props.stages.find((one) => one.node === node.name);
            const held = node.weight_bytes ?? 0;
            return (
              <tr key={node.name}>
                <th scope="row"><span class={`swatch ${toneOf(props.status, node.name)}`} aria-hidden="true" />{node.name}</th>
                <td>
                  <span class={`chip ${isAway(node) ? "chip-bad" : node.state === "up" ? "chip-good" : ""}`}>{wordOf(node)}</span>
                  {(node.out?.why ?? node.error) !== undefined && <div class="dim small">{node.out?.why ?? node.error}</div>}
                </td>
                <td>{node.layers === null ? "–" : `${node.layers[0]}–${node.layers[1] - 1}`}</td>
                <td class="num">
                  {bytes(held)} <span class="dim">of {bytes(node.memory_bytes)}</span>
                  {(node.memory_bytes ?? 0) > 0 && <Meter share={held / node.memory_bytes!} label={percent(held / node.memory_bytes!)} tone={toneOf(props.status, node.name)} />}
                </td>
                <td class="num">{stage === undefined ? "–" : percent(stage.busy)}</td>
                <td class="num">{stage === undefined ? "–" : percent(stage.wait)}</td>
                <td class="dim">{[node.device, node.threads === undefined ? "" : count(node.threads, "thread"), node.isa].filter((part) => part !== undefined && part !== "").join(", ") || "–"}</td>
              </tr>
            );
          })}
        </tbody>
      </table>
    </div>
  );
}

export function ClusterView() {
  const state = useStore();
  const status = state.status;
  const unmeasured = status !== null && status.status === "up" && status.nodes.length > 1 && status.links.length === 0;
  useEffect(() => {
    // Links are measured when somebody asks for them; what comes of it is seen in the status.
    if (unmeasured) getJson("/cluster/links").then(wake, () => undefined);
  }, [unmeasured, status?.generation]);
  if (status === null) return null;
  const now = state.rates[state.rates.length - 1];
  const stages = stageTimes(state.moments);
  const predicted = status.predicted.tokens_per_s_1;
  return (
    <div class="grid grid-cluster">
      <section class="figures span-all" aria-label="Now">
        <Figure name="Tokens" value={short(now?.tokens ?? 0)} unit="/s" note={predicted === undefined ? undefined : `one stream: ${short(predicted)} predicted`}>
          <Spark values={state.rates.map((rate) => rate.tokens)} />
        </Figure>
        <Figure name="Running" value={short(now?.running ?? 0)} unit={now?.running === 1 ? "request" : "requests"} note={`${short(now?.queue ?? 0)} wait`}>
          <Spark values={state.rates.map((rate) => rate.running)} />
        </Figure>
        <Figure name="Nodes" value={`${status.nodes.filter((node) => node.state === "up" && node.out === undefined).length}`} unit={`of ${status.nodes.length} up`} note={status.degraded ? "the plan does without one" : `session ${status.generation}`} />
        <Figure name="Model" value={status.model.name} note={`${count(status.model.layers, "layer")}, ${short(status.model.context)} positions`} />
      </section>
      {status.status === "down" && <div class="span-all problem" role="alert"><strong>No steps run now.</strong><div>{status.error}</div></div>}
      {status.move !== undefined && (
        <div class="span-all banner" role="status"><strong>{status.move.error === undefined ? "Nodes load for another plan." : "The move to another plan failed."}</strong> {status.move.why} {status.move.error}</div>
      )}
      <Card title="Topology" class="span-2" note="A circle's area is a node's memory, its ring the share of time that it computes, the grey one that it waits for others' experts." actions={<span class="dim num">{short(now?.steps ?? 0)} steps/s</span>}>
        <Topology status={status} stages={stages} steps={now?.steps ?? 0} running={now?.running ?? 0} />
        <LayerStrip status={status} />
      </Card>
      <Card title="What happened" class="card-timeline"><Timeline state={state} /></Card>
      <Card title="What a token waits for" class="span-all"><Waits state={state} /></Card>
      <Card title="Nodes" class="span-all">
        <NodeTable status={status} stages={stages} />
        {status.plan.length > 0 && (
          <details class="fold"><summary>Why this plan</summary><ul class="notes">{status.plan.map((note) => <li key={note}>{note}</li>)}</ul></details>
        )}
      </Card>
    </div>
  );
}
