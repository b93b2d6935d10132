// Small parts that several views draw with.

import type { ComponentChildren, RefObject } from "preact";
import { useEffect, useRef, useState } from "preact/hooks";

/** A colour by index, the same for a node everywhere; eight, then again. */
export function tone(index: number): string {
  return index < 0 ? "tone-none" : `tone-${index % 8}`;
}

export function Card(props: { title: string; note?: ComponentChildren; class?: string; children: ComponentChildren; actions?: ComponentChildren }) {
  const id = `card-${props.title.toLowerCase().replace(/\W+/g, "-")}`;
  return (
    <section class={`card ${props.class ?? ""}`} aria-labelledby={id}>
      <header class="card-head">
        <h2 id={id}>{props.title}</h2>
        {props.actions !== undefined && <div class="card-actions">{props.actions}</div>}
      </header>
      {props.note !== undefined && <p class="note">{props.note}</p>}
      {props.children}
    </section>
  );
}

export function Figure(props: { name: string; value: string; unit?: string; note?: string; children?: ComponentChildren }) {
  return (
    <div class="figure">
      <div class="figure-name">{props.name}</div>
      <div class="figure-value">
        {props.value}
        {props.unit !== undefined && <span class="figure-unit"> {props.unit}</span>}
      </div>
      {props.note !== undefined && <div class="figure-note">{props.note}</div>}
      {props.children}
    </div>
  );
}

/** Nothing to show, and why. */
export function Empty(props: { title: string; children?: ComponentChildren }) {
  return (
    <div class="empty">
      <svg viewBox="0 0 64 28" aria-hidden="true">
        <path d="M4 14c9-10 22-10 30 0 3-4 6-6 9-6v12c-3 0-6-2-9-6-8 10-21 10-30 0z" />
        <circle cx="14" cy="12.5" r="1.6" />
      </svg>
      <p class="empty-title">{props.title}</p>
      {props.children !== undefined && <p class="note">{props.children}</p>}
    </div>
  );
}

export function Problem(props: { title: string; children?: ComponentChildren }) {
  return (
    <div class="problem" role="alert">
      <strong>{props.title}</strong>
      {props.children !== undefined && <div>{props.children}</div>}
    </div>
  );
}

export function Loading(props: { what: string }) {
  return (
    <p class="loading" role="status">
      <span class="loading-dots" aria-hidden="true"><i /><i /><i /></span>
      {props.what}
    </p>
  );
}

/** A line of the last values; what it shows stands beside it as text. */
export function Spark(props: { values: number[] }) {
  const width = 160;
  const height = 36;
  const most = Math.max(...props.values, 1e-9);
  const step = width / Math.max(props.values.length - 1, 1);
  const points = props.values.map((v, i) => `${(i * step).toFixed(1)},${(height - 2 - (height - 4) * (v / most)).toFixed(1)}`);
  if (points.length < 2) return <svg class="spark" viewBox={`0 0 ${width} ${height}`} aria-hidden="true" />;
  return (
    <svg class="spark" viewBox={`0 0 ${width} ${height}`} preserveAspectRatio="none" aria-hidden="true">
      <polygon class="spark-area" points={`0,${height} ${points.join(" ")} ${width},${height}`} />
      <polyline class="spark-line" points={points.join(" ")} />
    </svg>
  );
}

export interface Slice {
  name: string;
  value: number;
  tone: string;
  text: string; // What the value is, for people.
}

/** Parts of a whole, as a bar and as a legend with the figures. */
export function Stack(props: { slices: Slice[]; label: string }) {
  const total = props.slices.reduce((sum, slice) => sum + slice.value, 0);
  let x = 0;
  return (
    <div class="stack">
      <svg class="stack-bar" viewBox="0 0 1000 20" preserveAspectRatio="none" role="img" aria-label={`${props.label}: ${props.slices.map((s) => `${s.name} ${s.text}`).join(", ")}`}>
        <rect class="stack-rest" width="1000" height="20" />
        {total > 0 && props.slices.map((slice) => {
          const width = (1000 * slice.value) / total;
          const rect = <rect key={slice.name} class={`fill ${slice.tone}`} x={x} width={Math.max(width - 2, 0)} height="20" />;
          x += width;
          return rect;
        })}
      </svg>
      <ul class="legend">
        {props.slices.map((slice) => (
          <li key={slice.name}>
            <span class={`swatch ${slice.tone}`} aria-hidden="true" />
            {slice.name} <b>{slice.text}</b>
          </li>
        ))}
      </ul>
    </div>
  );
}

export function Meter(props: { share: number; label: string; tone?: string }) {
  const share = Math.min(Math.max(props.share, 0), 1);
  return (
    <svg class="meter" viewBox="0 0 100 8" preserveAspectRatio="none" role="img" aria-label={props.label}>
      <rect class="stack-rest" width="100" height="8" rx="1" />
      <rect class={`fill ${share > 0.97 ? "tone-bad" : (props.tone ?? "tone-0")}`} width={100 * share} height="8" rx="1" />
    </svg>
  );
}

/** A dialog that the browser itself keeps focus in, and closes by Escape. */
export function Dialog(props: { title: string; onClose: () => void; children: ComponentChildren }) {
  const ref = useRef<HTMLDialogElement>(null);
  useEffect(() => {
    ref.current?.showModal();
  }, []);
  return (
    <dialog ref={ref} class="dialog" aria-labelledby="dialog-title" onClose={props.onClose}>
      <h2 id="dialog-title">{props.title}</h2>
      {props.children}
    </dialog>
  );
}

/** The width of an element, as it changes; `first` until it is known. */
export function useWidth(first: number): [RefObject<HTMLDivElement | null>, number] {
  const box = useRef<HTMLDivElement>(null);
  const [width, setWidth] = useState(first);
  useEffect(() => {
    const watcher = new ResizeObserver((entries) => setWidth(Math.round(entries[0]!.contentRect.width)));
    watcher.observe(box.current!);
    return () => watcher.disconnect();
  }, []);
  return [box, width];
}

export function download(name: string, type: string, text: string): void {
  const url = URL.createObjectURL(new Blob([text], { type }));
  const link = document.createElement("a");
  link.href = url;
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(url), 1000);
}

async function copyText(text: string): Promise<boolean> {
  try {
    await navigator.clipboard.writeText(text); // Only where the page came over HTTPS, or from this machine.
    return true;
  } catch {
    const area = document.createElement("textarea");
    area.value = text;
    document.body.append(area);
    area.select();
    const done = document.execCommand("copy");
    area.remove();
    return done;
  }
}

/** A button that says for a moment that it copied. */
export function CopyButton(props: { text: string; class: string; label?: string }) {
  const [copied, setCopied] = useState(false);
  const copy = async () => {
    setCopied(await copyText(props.text));
    setTimeout(() => setCopied(false), 1500);
  };
  return <button type="button" class={props.class} onClick={() => void copy()}>{copied ? "Copied" : (props.label ?? "Copy")}</button>;
}
