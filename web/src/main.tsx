import { render } from "preact";
import { useEffect, useRef, useState } from "preact/hooks";
import { apiKey, setApiKey } from "./api";
import { Dialog, Loading, Problem } from "./parts";
import { chooseModel, startPolling, useStore, wake } from "./store";
import { ChatView } from "./views/chat";
import { ClusterView } from "./views/cluster";
import { ExpertsView } from "./views/experts";
import { HealthView } from "./views/health";
import { PlanView } from "./views/plan";
import "./style.css";

const VIEWS = [
  { id: "cluster", name: "Cluster", view: ClusterView },
  { id: "experts", name: "Experts", view: ExpertsView },
  { id: "plan", name: "Plan", view: PlanView },
  { id: "chat", name: "Chat", view: ChatView },
  { id: "health", name: "Health", view: HealthView },
] as const;

const THEMES = ["auto", "light", "dark"] as const;
type Theme = (typeof THEMES)[number];

function storedTheme(): Theme {
  const stored = localStorage.getItem("shoal.theme") as Theme | null;
  return stored !== null && THEMES.includes(stored) ? stored : "auto";
}

function applyTheme(theme: Theme): void {
  if (theme === "auto") delete document.documentElement.dataset.theme;
  else document.documentElement.dataset.theme = theme;
}

function viewOf(hash: string): (typeof VIEWS)[number] {
  return VIEWS.find((one) => `#${one.id}` === hash) ?? VIEWS[0];
}

function ThemeButton() {
  const [theme, setTheme] = useState<Theme>(storedTheme);
  const next = THEMES[(THEMES.indexOf(theme) + 1) % THEMES.length]!;
  const choose = () => {
    localStorage.setItem("shoal.theme", next);
    applyTheme(next);
    setTheme(next);
  };
  const icon = { auto: "◐", light: "☀", dark: "☾" }[theme];
  return (
    <button type="button" class="icon-button" onClick={choose} title={`Colours: ${theme}`} aria-label={`Colours: ${theme}. Change to ${next}`}>
      <span aria-hidden="true">{icon}</span>
    </button>
  );
}

function KeyDialog(props: { onClose: () => void; wrong: boolean }) {
  const [key, setKey] = useState("");
  const submit = (event: Event) => {
    event.preventDefault();
    setApiKey(key.trim());
    props.onClose();
    wake();
  };
  return (
    <Dialog title="This server asks for a key" onClose={props.onClose}>
      <form onSubmit={submit}>
        <p class="note">One of the keys of <code>--api-key-file</code>. It stays in this tab, and is gone with it.</p>
        {props.wrong && <Problem title="The server did not take the key." />}
        <label class="field">
          <span>API key</span>
          <input type="password" autocomplete="off" value={key} onInput={(event) => setKey(event.currentTarget.value)} required />
        </label>
        <div class="dialog-actions">
          <button type="button" class="button" onClick={props.onClose}>Not now</button>
          <button type="submit" class="button primary">Use this key</button>
        </div>
      </form>
    </Dialog>
  );
}

function Pulse() {
  const { status, statusError } = useStore();
  const bad = statusError !== null || status?.status === "down";
  const word = statusError !== null ? (statusError.status === 0 ? "offline" : "refused") : status === null ? "asking" :
    status.status === "down" ? "down" : status.degraded ? "degraded" : "up";
  return (
    <span class={`pulse ${bad ? "pulse-bad" : word === "degraded" ? "pulse-warn" : word === "up" ? "pulse-good" : ""}`} role="status">
      <i aria-hidden="true" />
      {word}
    </span>
  );
}

function App() {
  const [hash, setHash] = useState(location.hash);
  const [asking, setAsking] = useState(false);
  const declined = useRef(false);
  const main = useRef<HTMLElement>(null);
  const state = useStore();
  const chosen = viewOf(hash);

  useEffect(() => {
    const moved = () => {
      setHash(location.hash);
      main.current?.focus({ preventScroll: true });
      window.scrollTo(0, 0);
    };
    addEventListener("hashchange", moved);
    return () => removeEventListener("hashchange", moved);
  }, []);
  useEffect(() => {
    document.title = `${chosen.name} – shoal`;
  }, [chosen]);
  useEffect(() => {
    if (state.unauthorized && !declined.current) setAsking(true);
  }, [state.unauthorized]);

  const View = chosen.view;
  return (
    <>
      <a class="skip" href={`#${chosen.id}`} onClick={(event) => { event.preventDefault(); main.current?.focus(); }}>Skip to content</a>
      <header class="top">
        <a class="brand" href="#cluster" aria-label="shoal, cluster view">
          <svg viewBox="0 0 32 32" aria-hidden="true"><path d="M3 12c5-6 12-6 16 0 2-2 4-3 6-3v6c-2 0-4-1-6-3-4 6-11 6-16 0z" /><path class="second" d="M9 23c4-4 9-4 12 0 2-2 3-2 4-2v4c-1 0-2 0-4-2-3 4-8 4-12 0z" /></svg>
          <span>shoal</span>
        </a>
        <nav class="tabs" aria-label="Views">
          {VIEWS.map((one) => (
            <a key={one.id} href={`#${one.id}`} aria-current={one.id === chosen.id ? "page" : undefined}>{one.name}</a>
          ))}
        </nav>
        <div class="top-end">
          {state.models.length > 1 && (
            <select class="select" aria-label="Model" value={state.model} onChange={(event) => chooseModel(event.currentTarget.value)}>
              {state.models.map((one) => <option key={one.id} value={one.id}>{one.id}</option>)}
            </select>
          )}
          <Pulse />
          {(state.unauthorized || apiKey() !== "") && <button type="button" class="button small" onClick={() => setAsking(true)}>Key</button>}
          <ThemeButton />
        </div>
      </header>
      <main ref={main} tabIndex={-1} class={`view view-${chosen.id}`}>
        <h1 class="sr-only">{chosen.name}</h1>
        {state.statusError !== null && (
          <Problem title={state.unauthorized ? "This server wants a key." : state.statusError.status === 0 ? "The coordinator does not answer." : "The server refused."}>
            {state.statusError.message}. {state.reachedAt > 0 && !state.unauthorized && "What is shown is as it was; the page asks again every second."}
          </Problem>
        )}
        {state.status === null && state.statusError === null && chosen.id !== "chat" ? <Loading what="Asking the coordinator" /> : <View />}
      </main>
      {asking && <KeyDialog wrong={state.unauthorized && apiKey() !== ""} onClose={() => { declined.current = true; setAsking(false); }} />}
    </>
  );
}

applyTheme(storedTheme());
startPolling();
render(<App />, document.getElementById("root")!);
