// A chat with the model. Conversations are kept in this browser, and nowhere else.

import { useEffect, useRef, useState } from "preact/hooks";
import { messageOf, model, posted, send } from "../api";
import { type Choice, type Conversation, type Settings, type Stats, type Token, type Turn, USUAL, addChunk, asMarkdown, emptyChoice, loadConversations, requestOf, saveConversations, titleOf, toolsOf } from "../lib/chat";
import { ago, percent, seconds, short } from "../lib/format";
import { EventReader } from "../lib/sse";
import { Markdown } from "../markdown_view";
import { CopyButton, Empty, Problem, download } from "../parts";
import { useStore } from "../store";

function fresh(settings: Settings = USUAL): Conversation {
  return { id: `${Date.now().toString(36)}${Math.random().toString(36).slice(2, 8)}`, title: "New chat", at: Date.now(), turns: [], settings: { ...settings } };
}

/** The answer to the turns, told piece by piece; ends with its figures. */
async function stream(turns: Turn[], settings: Settings, name: string, signal: AbortSignal, tell: (choices: Choice[]) => void): Promise<Stats> {
  const begun = performance.now();
  const stats: Stats = { prompt: 0, cached: 0, generated: 0, firstMs: 0, wholeMs: 0 };
  const response = await send("/v1/chat/completions", posted(requestOf(turns, settings, name)), null, signal);
  const reader = response.body!.pipeThrough(new TextDecoderStream()).getReader();
  const events = new EventReader();
  const choices: Choice[] = Array.from({ length: settings.choices }, emptyChoice);
  for (;;) {
    const { done, value } = await reader.read();
    if (done) break;
    for (const data of events.push(value)) {
      if (data === "[DONE]") continue;
      const usage = addChunk(choices, data);
      if (stats.firstMs === 0 && choices.some((choice) => choice.content !== "" || choice.reasoning !== "" || choice.calls.length > 0)) stats.firstMs = performance.now() - begun;
      if (usage != null) Object.assign(stats, { prompt: usage.prompt_tokens, generated: usage.completion_tokens, cached: usage.prompt_tokens_details?.cached_tokens ?? 0 });
    }
    tell(choices);
  }
  stats.wholeMs = performance.now() - begun;
  return stats;
}

/** Tokens as they were chosen: the paler, the less likely. Pointer or arrow keys pick one, which is told below. */
function Tokens(props: { tokens: Token[] }) {
  const [at, setAt] = useState(0);
  const token = props.tokens[Math.min(at, props.tokens.length - 1)];
  if (token === undefined) return null;
  const onKey = (event: KeyboardEvent) => {
    const by = { ArrowLeft: -1, ArrowRight: 1, Home: -props.tokens.length, End: props.tokens.length }[event.key];
    if (by === undefined) return;
    event.preventDefault();
    setAt(Math.min(Math.max(at + by, 0), props.tokens.length - 1));
  };
  const level = (logprob: number) => Math.min(4, Math.floor((1 - Math.exp(logprob)) * 5));
  const show = (text: string) => text.replaceAll("\n", "⏎").replaceAll(" ", "·") || "∅";
  return (
    <div class="tokens-view">
      <div class="token-text" tabIndex={0} role="group" aria-label="Tokens; arrow keys move" onKeyDown={onKey}>
        {props.tokens.map((one, i) => (
          <span key={i} class={`tok tok-${level(one.logprob)} ${i === at ? "tok-at" : ""}`} onPointerEnter={() => setAt(i)}>{one.text}</span>
        ))}
      </div>
      <div class="token-detail" aria-live="polite">
        <b><code>{show(token.text)}</code> {percent(Math.exp(token.logprob))}</b>
        {token.top.length > 0 && (
          <ol>
            {token.top.map((top, i) => (
              <li key={i}><code>{show(top.text)}</code><svg viewBox="0 0 100 6" preserveAspectRatio="none" class="meter" aria-hidden="true"><rect class="fill tone-0" width={100 * Math.exp(top.logprob)} height="6" /></svg><span class="num">{percent(Math.exp(top.logprob))}</span></li>
            ))}
          </ol>
        )}
      </div>
    </div>
  );
}

function prettyJson(text: string): string {
  try {
    return JSON.stringify(JSON.parse(text), null, 2);
  } catch {
    return text;
  }
}

function CallView(props: { choice: Choice; onResult: ((call: string, name: string, text: string) => void) | null }) {
  const [results, setResults] = useState<Record<string, string>>({});
  return (
    <>
      {props.choice.calls.map((call, i) => (
        <details key={i} class="fold">
          <summary>Calls <code>{call.name}</code></summary>
          <pre tabIndex={0}>{prettyJson(call.arguments)}</pre>
          {props.onResult !== null && (
            <form class="inline-form" onSubmit={(event) => { event.preventDefault(); props.onResult!(call.id, call.name, results[call.id] ?? ""); }}>
              <label class="field"><span>What it gave</span><textarea rows={2} value={results[call.id] ?? ""} onInput={(event) => setResults({ ...results, [call.id]: event.currentTarget.value })} /></label>
              <button type="submit" class="button small">Send the result</button>
            </form>
          )}
        </details>
      ))}
    </>
  );
}

const REASONS: Record<string, string> = { length: "cut off at the most tokens", content_filter: "filtered", stopped: "stopped" };

function Answer(props: { turn: Extract<Turn, { role: "assistant" }>; busy: boolean; last: boolean; onChoose: (i: number) => void; onAgain: () => void; onResult: ((call: string, name: string, text: string) => void) | null }) {
  const { turn } = props;
  const [tokens, setTokens] = useState(false);
  const choice = turn.choices[turn.chosen] ?? emptyChoice();
  const stats = turn.stats;
  const thinking = props.busy && choice.content === "" && choice.calls.length === 0;
  const after = stats === null ? 0 : (stats.wholeMs - stats.firstMs) / 1000;
  const rate = after > 0.02 ? (stats!.generated - 1) / after : 0; // In less, it came as one piece.
  return (
    <article class="turn turn-assistant" aria-label="Answer" aria-busy={props.busy}>
      {turn.choices.length > 1 && (
        <div class="segments" role="group" aria-label="Choices">
          {turn.choices.map((_, i) => <button key={i} type="button" aria-pressed={i === turn.chosen} onClick={() => props.onChoose(i)}>{i + 1}<span class="sr-only"> of {turn.choices.length}</span></button>)}
        </div>
      )}
      {choice.reasoning !== "" && (
        <details class="fold reasoning" open={thinking}>
          <summary>{thinking ? "Thinks …" : "Thought"}</summary>
          <Markdown text={choice.reasoning} />
        </details>
      )}
      {thinking && choice.reasoning === "" && <span class="loading-dots" role="status" aria-label="The answer begins"><i /><i /><i /></span>}
      {tokens && choice.tokens.length > 0 ? <Tokens tokens={choice.tokens} /> : choice.content !== "" && <Markdown text={choice.content} />}
      <CallView choice={choice} onResult={props.onResult} />
      {turn.error !== "" && <Problem title="The answer ended early.">{turn.error}</Problem>}
      {!props.busy && (
        <footer class="turn-foot">
          <span class="dim">
            {stats !== null && stats.generated > 0 && <>{short(stats.generated)} tokens{rate > 0 && stats.generated > 1 && <>, {short(rate)}/s</>}, first after {seconds(stats.firstMs / 1000)}{stats.cached > 0 && <>, {short(stats.cached)} of {short(stats.prompt)} cached</>}</>}
            {REASONS[choice.reason] !== undefined && <> · {REASONS[choice.reason]}</>}
          </span>
          <span class="turn-actions">
            {choice.tokens.length > 0 && <button type="button" class="button small ghost" aria-pressed={tokens} onClick={() => setTokens(!tokens)}>Tokens</button>}
            {choice.content !== "" && <CopyButton text={choice.content} class="button small ghost" />}
            {props.last && <button type="button" class="button small ghost" onClick={props.onAgain}>Again</button>}
          </span>
        </footer>
      )}
    </article>
  );
}

function Question(props: { text: string; busy: boolean; onEdit: (text: string) => void }) {
  const [editing, setEditing] = useState<string | null>(null);
  const submit = (event: Event) => {
    event.preventDefault();
    if (editing === null || editing.trim() === "") return;
    props.onEdit(editing);
    setEditing(null);
  };
  if (editing === null) {
    return (
      <article class="turn turn-user" aria-label="You">
        <p class="user-text">{props.text}</p>
        {!props.busy && <footer class="turn-foot"><span class="turn-actions"><button type="button" class="button small ghost" onClick={() => setEditing(props.text)}>Edit</button></span></footer>}
      </article>
    );
  }
  return (
    <form class="turn turn-user" onSubmit={submit}>
      <label class="field"><span class="sr-only">Your message</span><textarea rows={Math.min(10, editing.split("\n").length + 1)} value={editing} onInput={(event) => setEditing(event.currentTarget.value)} /></label>
      <div class="dialog-actions"><button type="button" class="button small" onClick={() => setEditing(null)}>Leave it</button><button type="submit" class="button small primary">Send again</button></div>
    </form>
  );
}

function SettingsForm(props: { settings: Settings; onChange: (settings: Settings) => void }) {
  const { settings } = props;
  const set = (part: Partial<Settings>) => props.onChange({ ...settings, ...part });
  const number = (text: string) => (text.trim() === "" || !Number.isFinite(Number(text)) ? null : Number(text));
  const { error } = toolsOf(settings);
  return (
    <div class="fields">
      <label class="field span-fields"><span>System message</span><textarea rows={2} value={settings.system} onInput={(event) => set({ system: event.currentTarget.value })} /></label>
      <label class="field"><span>Temperature</span><input type="number" min="0" max="2" step="0.1" placeholder="the model's" value={settings.temperature ?? ""} onInput={(event) => set({ temperature: number(event.currentTarget.value) })} /></label>
      <label class="field"><span>Most tokens</span><input type="number" min="1" step="1" placeholder="no limit" value={settings.maxTokens ?? ""} onInput={(event) => set({ maxTokens: number(event.currentTarget.value) })} /></label>
      <label class="field"><span>Choices</span><input type="number" min="1" max="8" step="1" value={settings.choices} onInput={(event) => set({ choices: Math.min(8, Math.max(1, Math.round(event.currentTarget.valueAsNumber || 1))) })} /></label>
      <label class="field check"><input type="checkbox" checked={settings.probabilities} onChange={(event) => set({ probabilities: event.currentTarget.checked })} /><span>Token probabilities</span></label>
      <label class="field span-fields"><span>Tools <span class="dim">a JSON array, as the API takes it</span></span><textarea rows={3} class="mono" value={settings.tools} aria-invalid={error !== ""} onInput={(event) => set({ tools: event.currentTarget.value })} /></label>
      {error !== "" && <p class="note is-bad span-fields">{error}</p>}
    </div>
  );
}

export function ChatView() {
  const state = useStore();
  const [list, setList] = useState<Conversation[]>(() => loadConversations(localStorage));
  const [current, setCurrent] = useState<Conversation>(() => list[0] ?? fresh());
  const [text, setText] = useState("");
  const [busy, setBusy] = useState(false);
  const [settingsOpen, setSettingsOpen] = useState(false);
  const [full, setFull] = useState(false);
  const stop = useRef<AbortController | null>(null);
  const end = useRef<HTMLDivElement>(null);
  const follow = useRef(true);
  const chosen = useRef(0); // Of the choices of the answer that comes.

  useEffect(() => {
    const scrolled = () => {
      follow.current = innerHeight + scrollY >= document.documentElement.scrollHeight - 80;
    };
    addEventListener("scroll", scrolled, { passive: true });
    return () => {
      removeEventListener("scroll", scrolled);
      stop.current?.abort();
    };
  }, []);
  useEffect(() => {
    if (busy && follow.current) end.current?.scrollIntoView({ block: "end" });
  }, [current, busy]);

  const keep = (conversation: Conversation) => {
    setCurrent(conversation);
    setList((before) => {
      const next = [conversation, ...before.filter((one) => one.id !== conversation.id)];
      setFull(!saveConversations(localStorage, next));
      return next;
    });
  };

  const answer = async (turns: Turn[]) => {
    const name = model() || state.models[0]?.id || state.status?.model.name || "";
    const controller = new AbortController();
    stop.current = controller;
    const base = { ...current, turns, title: titleOf(turns), at: Date.now() };
    let reply: Extract<Turn, { role: "assistant" }> = { role: "assistant", choices: Array.from({ length: base.settings.choices }, emptyChoice), chosen: 0, stats: null, error: "" };
    let frame = 0;
    follow.current = true;
    chosen.current = 0;
    setBusy(true);
    setCurrent({ ...base, turns: [...turns, reply] });
    const show = (choices: Choice[]) => {
      reply = { ...reply, choices: choices.map((choice) => ({ ...choice })) };
      if (frame === 0) frame = requestAnimationFrame(() => { frame = 0; setCurrent((now) => (now.id === base.id ? { ...base, turns: [...turns, { ...reply, chosen: chosen.current }] } : now)); });
    };
    try {
      const stats = await stream(turns, base.settings, name, controller.signal, show);
      reply = { ...reply, stats };
    } catch (failure) {
      if (controller.signal.aborted) reply = { ...reply, choices: reply.choices.map((choice) => ({ ...choice, reason: choice.reason || "stopped" })) };
      else reply = { ...reply, error: messageOf(failure) };
    }
    cancelAnimationFrame(frame);
    stop.current = null;
    setBusy(false);
    keep({ ...base, turns: [...turns, { ...reply, chosen: chosen.current }] });
  };
  const submit = (event: Event) => {
    event.preventDefault();
    if (text.trim() === "" || busy || toolsOf(current.settings).error !== "") return;
    setText("");
    void answer([...current.turns, { role: "user", text }]);
  };
  const onKey = (event: KeyboardEvent) => {
    if (event.key === "Enter" && !event.shiftKey && !event.isComposing) submit(event);
  };
  const begin = (conversation: Conversation) => {
    stop.current?.abort();
    setCurrent(conversation);
  };
  const remove = (id: string) => {
    const next = list.filter((one) => one.id !== id);
    setList(next);
    saveConversations(localStorage, next);
    if (current.id === id) begin(next[0] ?? fresh());
  };
  const replaceTurn = (i: number, turn: Turn) => keep({ ...current, turns: current.turns.map((one, j) => (j === i ? turn : one)) });

  const history = list.filter((one) => one.turns.length > 0);
  return (
    <div class="chat">
      <aside class="chat-list" aria-label="Conversations">
        <button type="button" class="button wide" onClick={() => begin(fresh(current.settings))}>New chat</button>
        <ul>
          {history.map((one) => (
            <li key={one.id} class={one.id === current.id ? "is-current" : ""}>
              <button type="button" class="chat-pick" aria-current={one.id === current.id ? "true" : undefined} onClick={() => begin(one)}>{one.title}<span class="dim small">{ago(one.at / 1000, Date.now() / 1000)}</span></button>
              <button type="button" class="icon-button" aria-label={`Delete ${one.title}`} onClick={() => remove(one.id)}>×</button>
            </li>
          ))}
        </ul>
        <p class="note">Kept in this browser only.</p>
      </aside>
      <div class="chat-main">
        <div class="chat-bar">
          <h2>{current.title}</h2>
          <span class="turn-actions">
            <button type="button" class="button small" aria-expanded={settingsOpen} onClick={() => setSettingsOpen(!settingsOpen)}>Settings</button>
            {current.turns.length > 0 && <button type="button" class="button small" onClick={() => download("chat.md", "text/markdown", asMarkdown(current))}>Export<span class="sr-only"> as Markdown</span></button>}
            {current.turns.length > 0 && <button type="button" class="button small" onClick={() => download("chat.json", "application/json", JSON.stringify(current, null, 2))}>JSON<span class="sr-only"> export</span></button>}
          </span>
        </div>
        {settingsOpen && <div class="card"><SettingsForm settings={current.settings} onChange={(settings) => setCurrent({ ...current, settings })} /></div>}
        {full && <Problem title="This browser has no room for more chats.">Older ones were dropped; export what you want to keep.</Problem>}
        <div class="turns">
          {current.turns.length === 0 && <Empty title={`Talk with ${model() || state.models[0]?.id || "the model"}`}>Enter sends, Shift and Enter begin a new line. What you write goes to this server and stays in this browser.</Empty>}
          {current.turns.map((turn, i) => {
            const last = i === current.turns.length - 1;
            if (turn.role === "user") return <Question key={i} text={turn.text} busy={busy} onEdit={(next) => void answer([...current.turns.slice(0, i), { role: "user", text: next }])} />;
            if (turn.role === "tool") return <article key={i} class="turn turn-tool"><details class="fold"><summary><code>{turn.name}</code> gave</summary><pre tabIndex={0}>{turn.text}</pre></details></article>;
            return (
              <Answer
                key={i} turn={turn} busy={busy && last} last={last}
                onChoose={(to) => {
                  if (busy && last) chosen.current = to;
                  else if (!busy) replaceTurn(i, { ...turn, chosen: to });
                }}
                onAgain={() => void answer(current.turns.slice(0, i))}
                onResult={last && !busy ? (call, name, gave) => void answer([...current.turns, { role: "tool", call, name, text: gave }]) : null}
              />
            );
          })}
          <div ref={end} />
        </div>
        <form class="composer" onSubmit={submit}>
          <label class="sr-only" for="message">Message</label>
          <textarea id="message" rows={Math.min(8, Math.max(1, text.split("\n").length))} placeholder="Message" value={text} onInput={(event) => setText(event.currentTarget.value)} onKeyDown={onKey} />
          {busy ? <button type="button" class="button" onClick={() => stop.current?.abort()}>Stop</button> : <button type="submit" class="button primary" disabled={text.trim() === ""}>Send</button>}
        </form>
      </div>
    </div>
  );
}
