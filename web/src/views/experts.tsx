// How experts are used, who holds them, what goes together, and what placing them otherwise would change.

import { useEffect, useMemo, useRef, useState } from "preact/hooks";
import { type ExpertLayer, type ExpertReport, type PlanReport, getJson, messageOf, postJson } from "../api";
import { count, idList, percent, short } from "../lib/format";
import { Card, Empty, Figure, Loading, Problem, tone, useWidth } from "../parts";
import { useStore } from "../store";

type Show = "use" | "owner" | "replicas";
const STRATEGIES = ["by_locality", "by_load", "with_layer", "round_robin"];
const ASK_MS = 3000;

/** Names of the owners that a plan gives the experts, by layer and id. */
type Owners = Map<number, Map<number, string>>;

export function ownersOf(report: PlanReport): Owners {
  const layers: Owners = new Map();
  for (const group of report.plan.experts ?? []) {
    for (let layer = group.layers[0]; layer < group.layers[1]; layer++) {
      const owners = new Map<number, string>();
      for (const [node, ids] of Object.entries(group.owners)) for (const id of idList(ids)) owners.set(id, node);
      layers.set(layer, owners);
    }
  }
  return layers;
}

function css(element: Element, name: string): string {
  return getComputedStyle(element).getPropertyValue(name).trim();
}

/** tones: by place in report.nodes, the colour of that node. */
function HeatMap(props: { report: ExpertReport; tones: number[]; show: Show; moved: (layer: ExpertLayer, expert: number) => boolean; at: [number, number]; onMove: (at: [number, number]) => void }) {
  const { report, show } = props;
  const canvas = useRef<HTMLCanvasElement>(null);
  const [box, width] = useWidth(320);
  const rows = report.layers.length;
  const columns = Math.max(...report.layers.map((layer) => layer.rows.length));
  const cell = Math.max(3, Math.floor((width * 2) / columns) / 2);
  const high = Math.max(5, Math.min(28, cell, 520 / rows));

  useEffect(() => {
    const element = canvas.current!;
    const scale = devicePixelRatio || 1;
    element.width = Math.round(columns * cell * scale);
    element.height = Math.round(rows * high * scale);
    const draw = element.getContext("2d")!;
    draw.scale(scale, scale);
    const tones = Array.from({ length: 8 }, (_, i) => css(element, `--tone-${i}`));
    const colours = { empty: css(element, "--cell-empty"), heat: css(element, "--heat"), text: css(element, "--text") };
    const gap = cell > 6 ? 1 : 0;
    report.layers.forEach((layer, y) => {
      const most = Math.max(...layer.rows, 1);
      layer.rows.forEach((n, x) => {
        const owner = layer.owners?.[x] ?? -1;
        const copies = layer.replicas?.[String(x)] ?? [];
        draw.globalAlpha = 1;
        draw.fillStyle = colours.empty;
        if (show === "use") {
          draw.fillRect(x * cell, y * high, cell - gap, high - gap);
          draw.globalAlpha = Math.sqrt(n / most);
          draw.fillStyle = colours.heat;
        } else if (owner >= 0) {
          draw.globalAlpha = show === "replicas" && copies.length === 0 ? 0.18 : 1;
          draw.fillStyle = tones[(props.tones[show === "replicas" && copies.length > 0 ? copies[0]! : owner] ?? 0) % 8]!;
        }
        draw.fillRect(x * cell, y * high, cell - gap, high - gap);
        if (props.moved(layer, x)) {
          draw.globalAlpha = 1;
          draw.strokeStyle = colours.text;
          draw.lineWidth = 1.5;
          draw.strokeRect(x * cell + 1, y * high + 1, cell - gap - 2, high - gap - 2);
        }
      });
    });
    draw.globalAlpha = 1;
    draw.strokeStyle = colours.text;
    draw.lineWidth = 2;
    draw.strokeRect(props.at[1] * cell, props.at[0] * high, cell - gap, high - gap);
  });
  const keys: Record<string, [number, number]> = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] };
  const onKey = (event: KeyboardEvent) => {
    const by = keys[event.key];
    if (by === undefined) return;
    event.preventDefault();
    const y = Math.min(Math.max(props.at[0] + by[0], 0), rows - 1);
    const x = Math.min(Math.max(props.at[1] + by[1], 0), report.layers[y]!.rows.length - 1);
    props.onMove([y, x]);
  };
  const onPoint = (event: PointerEvent) => {
    const rect = canvas.current!.getBoundingClientRect();
    const x = Math.floor(((event.clientX - rect.left) / rect.width) * columns);
    const y = Math.floor(((event.clientY - rect.top) / rect.height) * rows);
    if (y >= 0 && y < rows && x >= 0 && x < (report.layers[y]?.rows.length ?? 0)) props.onMove([y, x]);
  };
  return (
    <div ref={box} class="heat">
      <canvas
        ref={canvas} tabIndex={0} role="application" aria-roledescription="heat map"
        aria-label={`${rows} layers down, ${columns} experts across; arrow keys move, the cell is described below`}
        onKeyDown={onKey} onPointerMove={onPoint} onPointerDown={onPoint}
        width={columns * cell} height={rows * high}
        style={{ width: `${columns * cell}px`, height: `${rows * high}px` }}
      />
      <div class="heat-axis" aria-hidden="true"><span>expert 0</span><span>{columns - 1}</span></div>
    </div>
  );
}

function CellText(props: { report: ExpertReport; tones: number[]; at: [number, number] }) {
  const layer = props.report.layers[props.at[0]]!;
  const expert = props.at[1];
  const all = layer.rows.reduce((sum, n) => sum + n, 0);
  const owner = layer.owners?.[expert];
  const copies = layer.replicas?.[String(expert)] ?? [];
  const name = (i: number | undefined) => (i === undefined ? "nobody yet" : (props.report.nodes[i] ?? "?"));
  return (
    <p class="cell-text" aria-live="polite">
      <b>Layer {layer.layer}, expert {expert}</b>: {count(layer.rows[expert] ?? 0, "row")}
      {all > 0 && <> ({percent((layer.rows[expert] ?? 0) / all)} of the layer's)</>}, owned by{" "}
      <span class={`swatch ${tone(owner === undefined ? -1 : (props.tones[owner] ?? -1))}`} aria-hidden="true" />{name(owner)}
      {copies.length > 0 && <>, copies on {copies.map(name).join(", ")}</>}
    </p>
  );
}

function Together(props: { layer: ExpertLayer }) {
  const { layer } = props;
  if (layer.together.length === 0) return <p class="note">No rows of layer {layer.layer} were sampled so far.</p>;
  const most = layer.together[0]!.share;
  return (
    <>
      <p class="note">Pairs that most of the {count(layer.sampled_rows, "sampled row")} of layer {layer.layer} chose at once.</p>
      <ul class="pairs">
        {layer.together.map((pair) => (
          <li key={pair.experts.join()}>
            <span class="pair-ids">{pair.experts[0]} + {pair.experts[1]}</span>
            <svg viewBox="0 0 100 8" preserveAspectRatio="none" class="meter" aria-hidden="true"><rect class="fill tone-0" width={(100 * pair.share) / most} height="8" rx="1" /></svg>
            <span class="num">{percent(pair.share)}</span>
            <span class="dim small">{layer.owners !== undefined && (layer.owners[pair.experts[0]] === layer.owners[pair.experts[1]] ? "same node" : "different nodes")}</span>
          </li>
        ))}
      </ul>
    </>
  );
}

/** next: what onPlan got last. */
function Rebalance(props: { report: ExpertReport; next: Owners | null; onPlan: (next: Owners | null) => void }) {
  const [answer, setAnswer] = useState<PlanReport | null>(null);
  const [choice, setChoice] = useState("");
  const [error, setError] = useState("");
  const [asking, setAsking] = useState(false);
  const ask = async (experts: string) => {
    setChoice(experts);
    setAsking(true);
    setError("");
    try {
      const report = await postJson<PlanReport>("/cluster/plan", { experts, compare: true });
      setAnswer(report);
      props.onPlan(ownersOf(report));
    } catch (failure) {
      setError(messageOf(failure));
      setAnswer(null);
      props.onPlan(null);
    }
    setAsking(false);
  };
  const moving = useMemo(() => (props.next === null ? 0 : movedIn(props.report, props.next)), [props.next, props.report]);
  return (
    <>
      <div class="segments" role="group" aria-label="Place experts">
        {STRATEGIES.map((name) => (
          <button key={name} type="button" aria-pressed={choice === name} onClick={() => void ask(name)}>{name.replace("_", " ")}</button>
        ))}
      </div>
      {asking && <Loading what="Planning" />}
      {error !== "" && <Problem title="No such plan">{error}</Problem>}
      {choice === "" && <p class="note">Choose one, and see which experts would change their node. Nothing is moved by it.</p>}
      {answer !== null && !asking && (
        <>
          <p class="lead"><b>{count(moving, "expert")}</b> would get another owner with <code>--experts {choice}</code>; they are framed in the map.</p>
          {answer.experts.length > 0 ? (
            <div class="table-wrap" tabIndex={0} role="region" aria-label="Placements compared">
              <table>
                <thead><tr><th scope="col">Experts</th><th scope="col" class="num">Messages/token</th><th scope="col" class="num">Rows local</th><th scope="col" class="num">Busiest node</th></tr></thead>
                <tbody>
                  {answer.experts.map((one) => (
                    <tr key={one.name}>
                      <th scope="row">{one.name.replace("_", " ")}</th>
                      {one.error !== undefined ? <td colSpan={3} class="dim">{one.error}</td> : (
                        <><td class="num">{short(one.messages_per_token ?? 0)}</td><td class="num">{percent(one.local_share)}</td><td class="num">{short(one.imbalance ?? 0)}×</td></>
                      )}
                    </tr>
                  ))}
                </tbody>
              </table>
            </div>
          ) : (
            <p class="note">The server started without statistics (<code>--expert-stats FILE</code>), so placements by use are those without it, and no traffic is predicted.</p>
          )}
        </>
      )}
    </>
  );
}

/** Whether `next` gives the expert another owner than it has. */
function moves(report: ExpertReport, next: Owners, layer: ExpertLayer, expert: number): boolean {
  const owner = layer.owners?.[expert];
  const to = next.get(layer.layer)?.get(expert);
  return to !== undefined && owner !== undefined && to !== report.nodes[owner];
}

export function movedIn(report: ExpertReport, next: Owners): number {
  return report.layers.reduce((sum, layer) => sum + (layer.owners ?? []).filter((_, expert) => moves(report, next, layer, expert)).length, 0);
}

export function ExpertsView() {
  const state = useStore();
  const [report, setReport] = useState<ExpertReport | null>(null);
  const [error, setError] = useState("");
  const [show, setShow] = useState<Show>("use");
  const [at, setAt] = useState<[number, number]>([0, 0]);
  const [next, setNext] = useState<Owners | null>(null); // Of the plan that was asked about.

  useEffect(() => {
    let on = true;
    const ask = async () => {
      if (document.hidden) return;
      try {
        const got = await getJson<ExpertReport>("/cluster/experts");
        if (on) setReport(got);
        if (on) setError("");
      } catch (failure) {
        if (on) setError(messageOf(failure));
      }
    };
    void ask();
    const timer = setInterval(() => void ask(), ASK_MS);
    return () => {
      on = false;
      clearInterval(timer);
    };
  }, [state.model]);

  if (report === null) return error === "" ? <Loading what="Counting rows" /> : <Problem title="The use of experts is not known.">{error}</Problem>;
  if (report.layers.length === 0) return <Empty title="This model has no routed experts">A mixture of experts is drawn here, layer by layer. {state.status?.model.name} is dense.</Empty>;
  const layer = report.layers[Math.min(at[0], report.layers.length - 1)]!;
  const cell: [number, number] = [Math.min(at[0], report.layers.length - 1), Math.min(at[1], layer.rows.length - 1)];
  const tones = report.nodes.map((name) => state.status?.nodes.findIndex((node) => node.name === name) ?? -1);
  const moved = (row: ExpertLayer, expert: number) => next !== null && moves(report, next, row, expert);
  return (
    <div class="grid">
      <section class="figures span-all" aria-label="Traffic of experts">
        <Figure name="Rows" value={short(report.of_this_plan.rows)} note="through layers of experts" />
        <Figure name="Local" value={percent(report.of_this_plan.rows > 0 ? report.of_this_plan.local_share : null)} note="needed no other node" />
        <Figure name="Sent" value={short(report.of_this_plan.rows_sent)} unit="rows" note={`in ${count(report.of_this_plan.messages, "message")}`} />
        <Figure name="Experts" value={short(report.layers.reduce((sum, one) => sum + one.rows.length, 0))} note={`in ${count(report.layers.length, "layer")}`} />
      </section>
      <Card
        title="Layer by expert" class="span-all"
        note={show === "use" ? "The stronger the colour, the more rows chose the expert, within its layer." : show === "owner" ? "The colour is the node that answers for the expert." : "Bright: there are copies, in the colour of the first that holds one."}
        actions={
          <div class="segments" role="group" aria-label="Show">
            {(["use", "owner", "replicas"] as Show[]).map((one) => <button key={one} type="button" aria-pressed={show === one} onClick={() => setShow(one)}>{one}</button>)}
          </div>
        }
      >
        <HeatMap report={report} tones={tones} show={show} moved={moved} at={cell} onMove={setAt} />
        <CellText report={report} tones={tones} at={cell} />
        {show !== "use" && <ul class="legend">{report.nodes.map((name, i) => <li key={name}><span class={`swatch ${tone(tones[i]!)}`} aria-hidden="true" />{name}</li>)}</ul>}
      </Card>
      <Card title="Chosen together"><Together layer={layer} /></Card>
      <Card title="If they were placed otherwise" class="span-2"><Rebalance report={report} next={next} onPlan={setNext} /></Card>
    </div>
  );
}
