// What other plans would come to: boundaries moved by hand, machines that are not there yet, and all strategies side by side.

import { useEffect, useRef, useState } from "preact/hooks";
import { type ClusterNode, type PlanQuestion, type PlanReport, type Predicted, messageOf, postJson } from "../api";
import { bytes, count, seconds, short } from "../lib/format";
import { moveBoundary } from "../lib/topology";
import { Card, CopyButton, Dialog, Empty, Loading, Meter, Problem, download, tone } from "../parts";
import { useStore, wake } from "../store";

const ASK_AFTER_MS = 120;

interface Machine {
  name: string;
  memory_bytes: number;
  read_gbs: number;
  int8_gops: number;
  f32_gflops: number;
  rtt_us: number;
  mbs: number;
}

/** Rates as such machines were profiled, or are usual: a beginning, to be changed. */
const KINDS: Record<string, Omit<Machine, "name">> = {
  "like the coordinator": { memory_bytes: 0, read_gbs: 0, int8_gops: 0, f32_gflops: 0, rtt_us: 300, mbs: 110 },
  "a small desktop": { memory_bytes: 32 * 2 ** 30, read_gbs: 40, int8_gops: 900, f32_gflops: 300, rtt_us: 300, mbs: 110 },
  "a large desktop": { memory_bytes: 96 * 2 ** 30, read_gbs: 70, int8_gops: 2500, f32_gflops: 900, rtt_us: 200, mbs: 280 },
  "a server": { memory_bytes: 512 * 2 ** 30, read_gbs: 300, int8_gops: 12000, f32_gflops: 4000, rtt_us: 80, mbs: 1100 },
};

interface Answer {
  report: PlanReport | null;
  error: string;
  asking: boolean;
}

/** Asks for a plan once what is asked stays the same for a moment, and again in each session; only the last answer counts. */
function usePlan(question: PlanQuestion | null, session: string): Answer {
  const [answer, setAnswer] = useState<Answer>({ report: null, error: "", asking: false });
  const key = JSON.stringify(question);
  useEffect(() => {
    if (question === null) return;
    const stop = new AbortController();
    setAnswer((before) => ({ ...before, asking: true }));
    const timer = setTimeout(async () => {
      try {
        const report = await postJson<PlanReport>("/cluster/plan", question, 20000, stop.signal);
        setAnswer({ report, error: "", asking: false });
      } catch (failure) {
        if (stop.signal.aborted) return;
        setAnswer({ report: null, error: messageOf(failure), asking: false });
      }
    }, ASK_AFTER_MS);
    return () => {
      clearTimeout(timer);
      stop.abort();
    };
  }, [key, session]);
  return answer;
}

function Change(props: { now: number | undefined; then: number | undefined; better: "more" | "less" }) {
  if (props.now === undefined || props.then === undefined || props.now <= 0) return null;
  const by = props.then / props.now - 1;
  if (Math.abs(by) < 0.005) return <span class="dim small"> as now</span>;
  const good = by > 0 === (props.better === "more");
  return <span class={`delta ${good ? "is-good" : "is-bad"}`}>{by > 0 ? "+" : "−"}{Math.abs(100 * by).toFixed(0)} %</span>;
}

function Prediction(props: { of: Partial<Predicted>; now: Partial<Predicted> }) {
  const { of, now } = props;
  if (of.tokens_per_s_1 === undefined) return <p class="note">No times are predicted: {of.error ?? "rates are missing"}</p>;
  return (
    <>
      <dl class="facts">
        <div><dt>One stream</dt><dd>{short(of.tokens_per_s_1)} tokens/s <Change now={now.tokens_per_s_1} then={of.tokens_per_s_1} better="more" /></dd></div>
        <div><dt>16 streams</dt><dd>{short(of.tokens_per_s_16!)} tokens/s <Change now={now.tokens_per_s_16} then={of.tokens_per_s_16} better="more" /></dd></div>
        <div><dt>First token of 2k</dt><dd>{seconds(of.ttft_2k_s)} <Change now={now.ttft_2k_s} then={of.ttft_2k_s} better="less" /></dd></div>
        <div><dt>First token of 16k</dt><dd>{seconds(of.ttft_16k_s)} <Change now={now.ttft_16k_s} then={of.ttft_16k_s} better="less" /></dd></div>
      </dl>
      <p class="note">Most of a token's time goes to {of.bound_1}.</p>
    </>
  );
}

/** The strip of layers with a handle at each boundary: a slider each, for pointers and keys. */
function Splitter(props: { names: string[]; tones: string[]; split: number[]; onChange: (split: number[]) => void }) {
  const { names, split } = props;
  const strip = useRef<HTMLDivElement>(null);
  const layers = split.reduce((sum, n) => sum + n, 0);
  const drag = (index: number) => (event: PointerEvent) => {
    const handle = event.currentTarget as HTMLElement;
    event.preventDefault();
    handle.focus();
    handle.setPointerCapture(event.pointerId);
    const rect = strip.current!.getBoundingClientRect();
    const begun = event.clientX;
    const from = [...split];
    const move = (to: PointerEvent) => props.onChange(moveBoundary(from, index, Math.round(((to.clientX - begun) / rect.width) * layers)));
    const end = () => {
      handle.removeEventListener("pointermove", move);
      handle.removeEventListener("pointerup", end);
      handle.removeEventListener("pointercancel", end);
    };
    handle.addEventListener("pointermove", move);
    handle.addEventListener("pointerup", end);
    handle.addEventListener("pointercancel", end);
  };
  const onKey = (index: number) => (event: KeyboardEvent) => {
    const by = { ArrowLeft: -1, ArrowDown: -1, ArrowRight: 1, ArrowUp: 1, PageDown: -8, PageUp: 8, Home: -layers, End: layers }[event.key];
    if (by === undefined) return;
    event.preventDefault();
    props.onChange(moveBoundary(split, index, by));
  };
  let end = 0;
  return (
    <div ref={strip} class="splitter">
      <div class="splitter-parts" aria-hidden="true">
        {names.map((name, i) => (
          <div key={name} class={`splitter-part ${props.tones[i]}`} style={{ flexGrow: split[i] ?? 0 }}>
            {(split[i] ?? 0) > 0 && <span>{split[i]}</span>}
          </div>
        ))}
      </div>
      {names.slice(0, -1).map((name, i) => {
        end += split[i] ?? 0;
        const pair = (split[i] ?? 0) + (split[i + 1] ?? 0);
        return (
          <div
            key={name} class="splitter-handle" role="slider" tabIndex={0} style={{ left: `${(100 * end) / Math.max(layers, 1)}%` }}
            aria-label={`Boundary between ${name} and ${names[i + 1]}`} aria-valuemin={0} aria-valuemax={pair} aria-valuenow={split[i] ?? 0}
            aria-valuetext={`${count(split[i] ?? 0, "layer")} on ${name}, ${split[i + 1] ?? 0} on ${names[i + 1]}`}
            onPointerDown={drag(i)} onKeyDown={onKey(i)}
          />
        );
      })}
    </div>
  );
}

function MemoryTable(props: { report: PlanReport; toneOf: (name: string) => string }) {
  return (
    <div class="table-wrap" tabIndex={0} role="region" aria-label="Memory of each node">
      <table>
        <thead><tr><th scope="col">Node</th><th scope="col">Layers</th><th scope="col" class="num">Weights</th><th scope="col" class="num">Cache</th><th scope="col" class="num">Of its memory</th></tr></thead>
        <tbody>
          {props.report.nodes.map((node) => {
            const memory = props.report.facts.find((facts) => facts.name === node.name)?.memory_bytes ?? 0;
            return (
              <tr key={node.name}>
                <th scope="row"><span class={`swatch ${props.toneOf(node.name)}`} aria-hidden="true" />{node.name}</th>
                <td>{node.layers[0] === node.layers[1] ? "–" : `${node.layers[0]}–${node.layers[1] - 1}`}</td>
                <td class="num">{bytes(node.weight_bytes)}</td>
                <td class="num">{bytes(node.kv_bytes + node.state_bytes)}</td>
                <td class="num">{memory > 0 ? <>{bytes(node.total_bytes)} <span class="dim">of {bytes(memory)}</span><Meter share={node.total_bytes / memory} label={`${node.name}: ${bytes(node.total_bytes)} of ${bytes(memory)}`} tone={props.toneOf(node.name)} /></> : bytes(node.total_bytes)}</td>
              </tr>
            );
          })}
        </tbody>
      </table>
    </div>
  );
}

/** nodes: how many there are. Of a plan that leaves some out, it is not told which layers are whose. */
function Strategies(props: { report: PlanReport; nodes: number; onTry: (layers: number[]) => void }) {
  const { report } = props;
  return (
    <>
      {report.not_predicted !== "" && <p class="note">{report.not_predicted}.</p>}
      {report.links_assumed && <p class="note">Links that were not measured are taken for a usual wired network.</p>}
      <div class="table-wrap" tabIndex={0} role="region" aria-label="Strategies">
        <table>
          <thead>
            <tr><th scope="col">Strategy</th><th scope="col">Layers</th><th scope="col">Experts</th><th scope="col" class="num">Tokens/s, 1</th><th scope="col" class="num">Tokens/s, 16</th><th scope="col" class="num">First token of 2k</th><th scope="col" class="num">Messages/token</th><th scope="col"><span class="sr-only">Try</span></th></tr>
          </thead>
          <tbody>
            {report.strategies.map((one) => (
              <tr key={one.name} class={one.chosen === true ? "is-chosen" : ""}>
                <th scope="row">{one.name}{one.chosen === true && <span class="chip chip-good">in force</span>}</th>
                {one.error !== undefined ? <td colSpan={7} class="dim">{one.error}</td> : (
                  <>
                    <td>{one.layers!.join(", ")}</td>
                    <td>{one.experts === "" ? "–" : one.experts}</td>
                    <td class="num">{one.predicted == null ? "–" : short(one.predicted.tokens_per_s_1)}</td>
                    <td class="num">{one.predicted == null ? "–" : short(one.predicted.tokens_per_s_16)}</td>
                    <td class="num">{one.predicted == null ? "–" : seconds(one.predicted.ttft_2k_s)}</td>
                    <td class="num">{one.messages_max}</td>
                    <td>{one.chosen !== true && one.layers!.length === props.nodes && <button type="button" class="button small" onClick={() => props.onTry(one.layers!)}>Try<span class="sr-only"> {one.name}</span></button>}</td>
                  </>
                )}
              </tr>
            ))}
          </tbody>
        </table>
      </div>
      {report.conclusions.length > 0 && <ul class="notes">{report.conclusions.map((note) => <li key={note}>{note}</li>)}</ul>}
    </>
  );
}

function NumberField(props: { name: string; unit: string; value: number; onChange: (value: number) => void }) {
  return (
    <label class="field">
      <span>{props.name} <span class="dim">{props.unit}</span></span>
      <input type="number" min="0" step="any" inputMode="decimal" value={props.value} onInput={(event) => props.onChange(Math.max(0, event.currentTarget.valueAsNumber || 0))} />
    </label>
  );
}

function AddMachine(props: { taken: string[]; like: PlanReport["facts"][number] | undefined; onAdd: (machine: Machine) => void }) {
  const first = () => {
    const facts = props.like;
    return { ...KINDS["like the coordinator"]!, memory_bytes: facts?.memory_bytes || 16 * 2 ** 30, ...(facts?.rates ?? {}) };
  };
  const [kind, setKind] = useState("like the coordinator");
  const [name, setName] = useState("new-1");
  const [machine, setMachine] = useState<Omit<Machine, "name">>(first);
  const set = (part: Partial<Machine>) => setMachine({ ...machine, ...part });
  const choose = (next: string) => {
    setKind(next);
    setMachine(next === "like the coordinator" ? first() : KINDS[next]!);
  };
  const wrong = name.trim() === "" ? "A name, please." : props.taken.includes(name.trim()) ? "There is a node of this name." : /^[\w.:/@[\]-]+$/.test(name.trim()) ? "" : "Letters, digits and ._-:/@[] only.";
  const add = (event: Event) => {
    event.preventDefault();
    if (wrong !== "") return;
    props.onAdd({ ...machine, name: name.trim() });
    setName(`new-${props.taken.filter((one) => one.startsWith("new-")).length + 2}`);
  };
  return (
    <form class="fields" onSubmit={add}>
      <label class="field"><span>Machine</span>
        <select class="select" value={kind} onChange={(event) => choose(event.currentTarget.value)}>{Object.keys(KINDS).map((one) => <option key={one}>{one}</option>)}</select>
      </label>
      <label class="field"><span>Name</span><input value={name} onInput={(event) => setName(event.currentTarget.value)} aria-invalid={wrong !== ""} aria-describedby="machine-wrong" /></label>
      <NumberField name="Memory" unit="GiB" value={Number((machine.memory_bytes / 2 ** 30).toFixed(2))} onChange={(v) => set({ memory_bytes: Math.round(v * 2 ** 30) })} />
      <NumberField name="Reads" unit="GB/s" value={machine.read_gbs} onChange={(read_gbs) => set({ read_gbs })} />
      <NumberField name="int8" unit="Gop/s" value={machine.int8_gops} onChange={(int8_gops) => set({ int8_gops })} />
      <NumberField name="f32" unit="Gflop/s" value={machine.f32_gflops} onChange={(f32_gflops) => set({ f32_gflops })} />
      <NumberField name="Round trip" unit="µs" value={machine.rtt_us} onChange={(rtt_us) => set({ rtt_us })} />
      <NumberField name="Link" unit="MB/s" value={machine.mbs} onChange={(mbs) => set({ mbs })} />
      <button type="submit" class="button" disabled={machine.memory_bytes < 1}>Add to the question</button>
      <p id="machine-wrong" class={wrong === "" ? "note" : "note is-bad"}>{wrong !== "" ? wrong : "shoal profile on such a machine prints its rates."}</p>
    </form>
  );
}

function Drain(props: { nodes: ClusterNode[] }) {
  const [asked, setAsked] = useState<ClusterNode | null>(null);
  const [error, setError] = useState("");
  const workers = props.nodes.filter((node) => node.role === "worker");
  if (workers.length === 0) return <Empty title="No workers">A node that is to be stopped is drained here first.</Empty>;
  const order = async (node: ClusterNode, drained: boolean) => {
    setAsked(null);
    setError("");
    try {
      await postJson(drained ? "/cluster/drain" : "/cluster/undrain", { node: node.name });
      wake();
    } catch (failure) {
      setError(messageOf(failure));
    }
  };
  return (
    <>
      {error !== "" && <Problem title="The node stays as it is.">{error}</Problem>}
      <ul class="rows">
        {workers.map((node) => (
          <li key={node.name}>
            <span>{node.name} <span class="dim">{node.out?.drained === true ? "drained" : node.state}</span></span>
            {node.out?.drained === true ? (
              <button type="button" class="button small" onClick={() => void order(node, false)}>Take back<span class="sr-only"> {node.name}</span></button>
            ) : (
              <button type="button" class="button small" onClick={() => setAsked(node)}>Drain<span class="sr-only"> {node.name}</span></button>
            )}
          </li>
        ))}
      </ul>
      {asked !== null && (
        <Dialog title={`Drain ${asked.name}?`} onClose={() => setAsked(null)}>
          <p>The others take over its layers and experts while requests go on. Then its process may be stopped. It can be taken back at any time.</p>
          <div class="dialog-actions">
            <button type="button" class="button" onClick={() => setAsked(null)}>Leave it</button>
            <button type="button" class="button danger" onClick={() => void order(asked, true)}>Drain {asked.name}</button>
          </div>
        </Dialog>
      )}
    </>
  );
}

/** Has the cluster move to these layers, once it was asked for twice. */
function Apply(props: { layers: Record<string, number>; onDone: () => void }) {
  const [asking, setAsking] = useState(false);
  const [error, setError] = useState("");
  const apply = async () => {
    setAsking(false);
    setError("");
    try {
      await postJson("/cluster/plan", { layers: props.layers, apply: true }, 20000);
      props.onDone();
      wake();
    } catch (failure) {
      setError(messageOf(failure));
    }
  };
  return (
    <>
      <button type="button" class="button primary" onClick={() => setAsking(true)}>Apply</button>
      {error !== "" && <Problem title="Not applied.">{error}</Problem>}
      {asking && (
        <Dialog title="Move the layers?" onClose={() => setAsking(false)}>
          <p>Nodes load what they lack while requests go on; then these pause for a moment, and go on with the same bytes. The order holds until this server ends, or another is given.</p>
          <div class="dialog-actions">
            <button type="button" class="button" onClick={() => setAsking(false)}>Leave it</button>
            <button type="button" class="button primary" onClick={() => void apply()}>Move them</button>
          </div>
        </Dialog>
      )}
    </>
  );
}

export function PlanView() {
  const state = useStore();
  const [machines, setMachines] = useState<Machine[]>([]);
  const [split, setSplit] = useState<number[] | null>(null);
  const [ordered, setOrdered] = useState(false);
  const epoch = `${state.status?.generation} ${state.model}`;
  const add = machines.map((machine) => Object.fromEntries(Object.entries(machine).filter(([, value]) => value !== 0)) as unknown as Machine);
  const base = usePlan({ compare: true, ...(add.length > 0 ? { add } : {}) }, epoch);
  const facts = base.report?.facts ?? [];
  const names = facts.map((one) => one.name);
  const layersOf = (report: PlanReport) => facts.map((one) => {
    const node = report.nodes.find((other) => other.name === one.name);
    return node === undefined ? 0 : node.layers[1] - node.layers[0];
  });
  const current = split ?? (base.report === null ? [] : layersOf(base.report));
  const question = split === null ? null : { layers: Object.fromEntries(names.map((name, i) => [name, split[i] ?? 0])), ...(add.length > 0 ? { add } : {}) };
  const moved = usePlan(question, epoch);
  useEffect(() => {
    setSplit(null);
    setOrdered(false);
  }, [names.join(), epoch]);

  const toneOf = (name: string) => {
    const known = state.status?.nodes.findIndex((node) => node.name === name) ?? -1;
    return tone(known >= 0 ? known : (state.status?.nodes.length ?? 0) + Math.max(0, machines.findIndex((one) => one.name === name)));
  };
  const shown = split === null ? base : moved;
  const report = shown.report;
  const changed = split !== null || machines.length > 0;
  return (
    <div class="grid">
      <Card
        title="Layers" class="span-2"
        note={names.length > 1 ? "Move a boundary, by pointer or by arrow keys: what it would come to is asked of the coordinator. Nothing moves until it is applied." : undefined}
        actions={changed && <button type="button" class="button small" onClick={() => { setSplit(null); setMachines([]); }}>As it is</button>}
      >
        {base.error !== "" && <Problem title="No plan can be made.">{base.error}</Problem>}
        {base.report === null && base.error === "" && <Loading what="Planning" />}
        {names.length > 0 && (
          <>
            <Splitter names={names} tones={names.map(toneOf)} split={current} onChange={setSplit} />
            <ul class="legend">{names.map((name, i) => <li key={name}><span class={`swatch ${toneOf(name)}`} aria-hidden="true" />{name} <b>{count(current[i] ?? 0, "layer")}</b></li>)}</ul>
          </>
        )}
        {shown.error !== "" && split !== null && <Problem title="Not so:">{shown.error}</Problem>}
        {report !== null && <MemoryTable report={report} toneOf={toneOf} />}
        {report !== null && changed && (
          <div class="actions">
            {question !== null && machines.length === 0 && <Apply layers={question.layers} onDone={() => setOrdered(true)} />}
            <CopyButton label="Copy as flags" class="button" text={`--split ${current.join(",")}`} />
            <button type="button" class="button" onClick={() => download("plan.json", "application/json", JSON.stringify(report.plan, null, 2))}>Download plan file</button>
            <span class="note">{ordered ? "Ordered: the nodes load." : <>Start <code>shoal serve</code> with either to have it so for good.</>}</span>
          </div>
        )}
      </Card>
      <Card title={changed ? "It would come to" : "It comes to"}>
        <div aria-live="polite">
          {report === null ? <p class="note">{shown.asking ? "Asking …" : "–"}</p> : (
            <>
              <Prediction of={report.predicted} now={changed ? (state.status?.predicted ?? {}) : {}} />
              <p class="note">{count(report.per_token.messages_max, "message")} a token at most, {bytes(report.per_token.bytes_max)} between nodes.</p>
            </>
          )}
        </div>
      </Card>
      <Card title="Strategies" class="span-all" note="The table of shoal plan, for the nodes as they are now.">
        {base.report === null ? (base.error === "" && <Loading what="Comparing" />) : (
          <Strategies report={base.report} nodes={names.length} onTry={setSplit} />
        )}
      </Card>
      <Card title="A machine more" class="span-2" note="What would it be worth? The fastest plan with it is shown above.">
        {machines.length > 0 && (
          <ul class="rows">
            {machines.map((one) => <li key={one.name}><span><span class={`swatch ${toneOf(one.name)}`} aria-hidden="true" />{one.name} <span class="dim">{bytes(one.memory_bytes)}, {short(one.read_gbs)} GB/s</span></span><button type="button" class="button small" onClick={() => setMachines(machines.filter((other) => other !== one))}>Remove<span class="sr-only"> {one.name}</span></button></li>)}
          </ul>
        )}
        {facts.length > 0 && <AddMachine key={epoch} taken={names} like={facts[0]} onAdd={(machine) => setMachines([...machines, machine])} />}
      </Card>
      <Card title="Take a node away" note="A live move: requests go on.">{state.status !== null && <Drain nodes={state.status.nodes} />}</Card>
    </div>
  );
}
