// The last lines of all nodes' logs, and what an examination of the cluster found.

import { useEffect, useState } from "preact/hooks";
import { type Examination, type LogLine, type NodeLog, getJson, messageOf, postJson } from "../api";
import { ago, clock, count } from "../lib/format";
import { joinLogs } from "../lib/logs";
import { Card, Empty, Loading, Problem } from "../parts";
import { useStore } from "../store";
import { toneOf } from "./cluster";

const LEVELS = ["debug", "info", "warning", "error"];
const PAUSE_MS = 2000;
/** Longer than the coordinator takes at most. */
const DOCTOR_TIMEOUT_MS = 45000;

/** Lines that fit, with what went wrong where a node told none; asked again and again while `follow`. */
function useLogs(node: string, level: string, follow: boolean): { lines: LogLine[]; problems: string[]; asked: boolean } {
  const [state, set] = useState<{ lines: LogLine[]; problems: string[]; asked: boolean }>({ lines: [], problems: [], asked: false });
  useEffect(() => {
    let lines: LogLine[] = [];
    let stopped = false;
    let timer: ReturnType<typeof setTimeout> | undefined;
    set({ lines, problems: [], asked: false });
    const ask = async () => {
      try {
        // From the newest line that all nodes have told on: their clocks differ, and a line that comes twice is known.
        const since = lines.length === 0 ? 0 : Math.max(0, Math.min(...newest(lines).values()) - 1);
        const told = await getJson<{ nodes: NodeLog[] }>(`/cluster/logs?level=${level}&since=${since}${node === "" ? "" : `&node=${encodeURIComponent(node)}`}`);
        if (stopped) return;
        lines = joinLogs(lines, told.nodes);
        set({ lines, problems: told.nodes.filter((one) => one.error !== undefined).map((one) => `${one.name}: ${one.error}`), asked: true });
      } catch (error) {
        if (!stopped) set({ lines, problems: [messageOf(error)], asked: true });
      }
      if (!stopped && follow) timer = setTimeout(() => void ask(), PAUSE_MS);
    };
    void ask();
    return () => {
      stopped = true;
      clearTimeout(timer);
    };
  }, [node, level, follow]);
  return state;
}

function newest(lines: LogLine[]): Map<string, number> {
  const at = new Map<string, number>();
  for (const line of lines) at.set(line.node, Math.max(at.get(line.node) ?? 0, line.at));
  return at;
}

export function Logs() {
  const { status } = useStore();
  const [node, setNode] = useState("");
  const [level, setLevel] = useState("info");
  const [wanted, setWanted] = useState("");
  const [follow, setFollow] = useState(true);
  const { lines, problems, asked } = useLogs(node, level, follow);
  const low = wanted.toLowerCase();
  const shown = lines.filter((line) => low === "" || line.text.toLowerCase().includes(low) || line.node.toLowerCase().includes(low));
  return (
    <Card
      title="Logs"
      class="span-all"
      note={<>The last lines of each process, as it keeps them in memory. <code>shoal logs -f</code> follows the whole files of nodes that <code>shoal up</code> started.</>}
    >
      <div class="fields">
        <label class="field"><span>Node</span>
          <select class="select" value={node} onChange={(event) => setNode(event.currentTarget.value)}>
            <option value="">all</option>
            {(status?.nodes ?? []).map((one) => <option key={one.name} value={one.name}>{one.name}</option>)}
          </select>
        </label>
        <label class="field"><span>From level</span>
          <select class="select" value={level} onChange={(event) => setLevel(event.currentTarget.value)}>
            {LEVELS.map((one) => <option key={one} value={one}>{one}</option>)}
          </select>
        </label>
        <label class="field"><span>Lines with</span>
          <input type="search" value={wanted} onInput={(event) => setWanted(event.currentTarget.value)} />
        </label>
        <label class="field check"><input type="checkbox" checked={follow} onChange={(event) => setFollow(event.currentTarget.checked)} /><span>Follow</span></label>
      </div>
      {problems.map((one) => <p key={one} class="note is-bad" role="status">{one}</p>)}
      {!asked ? <Loading what="Asking the nodes" /> : shown.length === 0 ? <Empty title={lines.length === 0 ? "No lines" : "No line has that in it"} /> : (
        <div class="log" role="log" aria-label="Log lines, newest first" tabIndex={0}>
          <ol>
            {shown.map((line) => (
              <li key={`${line.node} ${line.id} ${line.at}`} data-node={line.node} data-level={line.level} class={`log-${line.level}`}>
                <time>{clock(line.at / 1000)}</time>
                <span class="log-node"><span class={`swatch ${status === null ? "tone-none" : toneOf(status, line.node)}`} aria-hidden="true" />{line.node}</span>
                <span class="log-level">{line.level}</span>
                <span class="log-text">{line.text}</span>
              </li>
            ))}
          </ol>
        </div>
      )}
    </Card>
  );
}

const WORDS = { ok: "well", advice: "could be better", wrong: "wrong" };

export function Doctor() {
  const [report, setReport] = useState<Examination | null>(null);
  const [busy, setBusy] = useState(false);
  const [problem, setProblem] = useState("");
  useEffect(() => {
    getJson<Examination>("/cluster/doctor").then(setReport, () => undefined);
  }, []);
  const examine = async () => {
    setBusy(true);
    setProblem("");
    try {
      setReport(await postJson<Examination>("/cluster/doctor", {}, DOCTOR_TIMEOUT_MS));
    } catch (error) {
      setProblem(messageOf(error));
    }
    setBusy(false);
  };
  const found = report?.findings ?? [];
  const unwell = found.filter((one) => one.verdict !== "ok");
  return (
    <Card
      title="Doctor"
      class="span-all"
      note="Asks each machine for its clock, memory, limits, build and files, and measures the links, which takes some seconds and some of the network."
      actions={<button type="button" class="button small" disabled={busy} onClick={() => void examine()}>Examine</button>}
    >
      {problem !== "" && <Problem title="The cluster was not examined.">{problem}</Problem>}
      {busy && <Loading what="Examining the nodes and the links between them" />}
      {!busy && report !== null && report.findings !== null && (
        <>
          <p class="note" role="status">
            {count(found.length, "check")}, {unwell.length === 0 ? "all well" : `${unwell.length} to look at`}; {ago(report.at, Date.now() / 1000)}.
          </p>
          <ul class="checks">
            {[...unwell, ...found.filter((one) => one.verdict === "ok")].map((one) => (
              <li key={`${one.node} ${one.check}`} class={one.verdict === "ok" ? "check-good" : one.verdict === "wrong" ? "check-bad" : "check-advice"}>
                <span aria-hidden="true">{one.verdict === "ok" ? "✓" : "!"}</span>
                <span><b>{one.node}: {one.check}</b> <span class="sr-only">{WORDS[one.verdict]}:</span> {one.text}{one.remedy !== "" && <span class="dim"> {one.remedy}</span>}</span>
              </li>
            ))}
          </ul>
        </>
      )}
    </Card>
  );
}
