// Markdown as a tree, of which only elements and texts are made: nothing that a model writes is ever read as HTML. Pure.
// What it knows: paragraphs, headings, lists, quotes, rules, fenced code, tables, emphasis, code, links, TeX between $ or \( \).

export type Inline =
  | { kind: "text"; text: string }
  | { kind: "code"; text: string }
  | { kind: "math"; text: string }
  | { kind: "strong" | "em" | "del"; inside: Inline[] }
  | { kind: "link"; href: string; inside: Inline[] }
  | { kind: "break" };

export type Block =
  | { kind: "paragraph"; inside: Inline[] }
  | { kind: "heading"; level: number; inside: Inline[] }
  | { kind: "code"; language: string; text: string; open: boolean }
  | { kind: "math"; text: string }
  | { kind: "quote"; blocks: Block[] }
  | { kind: "list"; ordered: boolean; start: number; items: Block[][] }
  | { kind: "table"; head: Inline[][]; rows: Inline[][][] }
  | { kind: "rule" };

const DEPTH_MAX = 8;
const ITEM = /^(\s*)([-*+]|\d{1,9}[.)])\s+(.*)$/;
const FENCE = /^\s{0,3}(`{3,}|~{3,})\s*([^`\s]*)[^`]*$/;

/** Only addresses that a click may follow; anything else stays text. */
export function safeHref(href: string): string | null {
  const text = href.trim();
  if (/^(https?:\/\/|mailto:)[^\s]+$/i.test(text)) return text;
  return null;
}

export function parseMarkdown(text: string): Block[] {
  return blocksOf(text.replace(/\r\n?/g, "\n").split("\n"), 0);
}

function blocksOf(lines: string[], depth: number): Block[] {
  const blocks: Block[] = [];
  let i = 0;
  while (i < lines.length) {
    const line = lines[i]!;
    if (line.trim() === "") {
      i++;
      continue;
    }
    const read = fence(lines, i) ?? displayMath(lines, i) ?? heading(line, i) ?? rule(line, i) ?? table(lines, i) ??
      (depth < DEPTH_MAX ? (quote(lines, i, depth) ?? list(lines, i, depth)) : null) ?? paragraph(lines, i);
    blocks.push(read.block);
    i = read.next;
  }
  return blocks;
}

interface Read {
  block: Block;
  next: number;
}

function fence(lines: string[], i: number): Read | null {
  const open = FENCE.exec(lines[i]!);
  if (open === null) return null;
  const mark = open[1]!;
  const code: string[] = [];
  let next = i + 1;
  while (next < lines.length) {
    const line = lines[next]!.trim();
    if (line.startsWith(mark) && line.replaceAll(mark[0]!, "") === "") break;
    code.push(lines[next]!);
    next++;
  }
  const closed = next < lines.length;
  return { block: { kind: "code", language: open[2] ?? "", text: code.join("\n"), open: !closed }, next: closed ? next + 1 : next };
}

function displayMath(lines: string[], i: number): Read | null {
  const first = lines[i]!.trim();
  const open = first.startsWith("$$") ? "$$" : first.startsWith("\\[") ? "\\[" : null;
  if (open === null) return null;
  const close = open === "$$" ? "$$" : "\\]";
  let text = first.slice(2);
  let next = i + 1;
  while (!text.includes(close) && next < lines.length) text += `\n${lines[next++]!}`;
  const end = text.indexOf(close);
  // Not closed yet, or followed by words: then it is a paragraph.
  if (end < 0 || text.slice(end + 2).trim() !== "") return null;
  return { block: { kind: "math", text: text.slice(0, end).trim() }, next };
}

function heading(line: string, i: number): Read | null {
  const match = /^\s{0,3}(#{1,6})\s+(.*?)\s*#*\s*$/.exec(line);
  if (match === null) return null;
  return { block: { kind: "heading", level: match[1]!.length, inside: parseInline(match[2]!) }, next: i + 1 };
}

function rule(line: string, i: number): Read | null {
  return /^\s{0,3}([-*_])(\s*\1){2,}\s*$/.test(line) ? { block: { kind: "rule" }, next: i + 1 } : null;
}

function cells(line: string): string[] {
  return line.trim().replace(/^\||\|$/g, "").split("|").map((cell) => cell.trim());
}

function table(lines: string[], i: number): Read | null {
  const under = lines[i + 1];
  if (under === undefined || !lines[i]!.includes("|") || !/^\s*\|?(\s*:?-+:?\s*\|)+\s*:?-*:?\s*$/.test(under)) return null;
  const head = cells(lines[i]!).map((cell) => parseInline(cell));
  const rows: Inline[][][] = [];
  let next = i + 2;
  while (next < lines.length && lines[next]!.includes("|")) {
    const row = cells(lines[next]!).map((cell) => parseInline(cell));
    while (row.length < head.length) row.push([]);
    rows.push(row.slice(0, head.length));
    next++;
  }
  return { block: { kind: "table", head, rows }, next };
}

function quote(lines: string[], i: number, depth: number): Read | null {
  if (!/^\s{0,3}>/.test(lines[i]!)) return null;
  const inside: string[] = [];
  let next = i;
  while (next < lines.length && /^\s{0,3}>/.test(lines[next]!)) inside.push(lines[next++]!.replace(/^\s{0,3}> ?/, ""));
  return { block: { kind: "quote", blocks: blocksOf(inside, depth + 1) }, next };
}

function list(lines: string[], i: number, depth: number): Read | null {
  const first = ITEM.exec(lines[i]!);
  if (first === null) return null;
  const ordered = /\d/.test(first[2]!);
  const indent = first[1]!.length;
  const items: string[][] = [];
  let inside = 0;
  let next = i;
  while (next < lines.length) {
    const line = lines[next]!;
    const item = ITEM.exec(line);
    const own = item !== null && item[1]!.length <= indent + 1 && /\d/.test(item[2]!) === ordered;
    if (own) {
      inside = line.length - item[3]!.length;
      items.push([item[3]!]);
    } else if (line.trim() === "") {
      const after = lines[next + 1];
      const goesOn = after !== undefined && (/^\s/.test(after) || (ITEM.exec(after)?.[1]?.length ?? 99) <= indent + 1);
      if (!goesOn) break;
      items[items.length - 1]!.push("");
    } else if (/^\s/.test(line) && line.search(/\S/) > indent) {
      items[items.length - 1]!.push(line.slice(Math.min(line.search(/\S/), inside)));
    } else if (item === null && lines[next - 1]!.trim() !== "" && heading(line, 0) === null && FENCE.exec(line) === null) {
      items[items.length - 1]!.push(line); // A lazy continuation.
    } else {
      break;
    }
    next++;
  }
  const start = ordered ? Number.parseInt(first[2]!, 10) : 1;
  return { block: { kind: "list", ordered, start, items: items.map((item) => blocksOf(item, depth + 1)) }, next };
}

function paragraph(lines: string[], i: number): Read {
  const text: string[] = [lines[i]!];
  let next = i + 1;
  while (next < lines.length) {
    const line = lines[next]!;
    const other = line.trim() === "" || FENCE.test(line) || heading(line, 0) !== null || /^\s{0,3}>/.test(line) ||
      ITEM.test(line) || rule(line, 0) !== null || line.trim().startsWith("$$") || line.trim().startsWith("\\[");
    if (other) break;
    text.push(line);
    next++;
  }
  return { block: { kind: "paragraph", inside: parseInline(text.join("\n")) }, next };
}

// Each begins with a character that ordinary words do not have, and none of them can run for longer than its text.
const INLINE: [RegExp, (match: RegExpExecArray, depth: number) => Inline | null][] = [
  [/^(`+)([^`]|[^`][\s\S]*?[^`])\1(?!`)/, (m) => ({ kind: "code", text: m[2]!.trim() })],
  [/^\\\(([\s\S]+?)\\\)/, (m) => ({ kind: "math", text: m[1]!.trim() })],
  [/^\$\$([^$]+)\$\$/, (m) => ({ kind: "math", text: m[1]!.trim() })],
  [/^\$(?!\s)([^$\n]*[^$\s\\])\$(?!\d)/, (m) => ({ kind: "math", text: m[1]! })],
  [/^\\([\\`*_{}[\]()#+.!|$~-])/, (m) => ({ kind: "text", text: m[1]! })],
  [/^\*\*(?=\S)([\s\S]*?\S)\*\*/, (m, depth) => ({ kind: "strong", inside: inline(m[1]!, depth) })],
  [/^__(?=\S)([\s\S]*?\S)__(?!\w)/, (m, depth) => ({ kind: "strong", inside: inline(m[1]!, depth) })],
  [/^~~(?=\S)([\s\S]*?\S)~~/, (m, depth) => ({ kind: "del", inside: inline(m[1]!, depth) })],
  [/^\*(?=[^\s*])([^*]*?[^\s*])\*(?!\*)/, (m, depth) => ({ kind: "em", inside: inline(m[1]!, depth) })],
  [/^_(?=[^\s_])([^_]*?[^\s_])_(?!\w)/, (m, depth) => ({ kind: "em", inside: inline(m[1]!, depth) })],
  [/^\[([^[\]]*)\]\(([^()\s]*(?:\([^()\s]*\)[^()\s]*)*)(?:\s+"[^"]*")?\)/, (m, depth) => linkOf(m[2]!, m[1]!, depth)],
  [/^<((?:https?:\/\/|mailto:)[^\s<>]+)>/, (m, depth) => linkOf(m[1]!, m[1]!, depth)],
  [/^ {2,}\n|^\\\n/, () => ({ kind: "break" })],
];

function linkOf(href: string, text: string, depth: number): Inline | null {
  const safe = safeHref(href);
  return safe === null ? null : { kind: "link", href: safe, inside: depth > 0 ? [{ kind: "text", text }] : inline(text, depth + 1) };
}

export function parseInline(text: string): Inline[] {
  return inline(text, 0);
}

const INLINE_MAX = 20000; // Characters; what is longer is no paragraph, and would take too long.

function inline(text: string, depth: number): Inline[] {
  if (text.length > INLINE_MAX) return [{ kind: "text", text }];
  const out: Inline[] = [];
  let plain = "";
  let rest = text;
  const flush = () => {
    if (plain !== "") out.push({ kind: "text", text: plain });
    plain = "";
  };
  while (rest !== "") {
    const next = rest.search(/[`\\$*_~[<]| {2,}\n/);
    if (next < 0) {
      plain += rest;
      break;
    }
    plain += rest.slice(0, next);
    rest = rest.slice(next);
    const inWord = rest[0] === "_" && /\w$/.test(plain);
    let found: { node: Inline; length: number } | null = null;
    if (depth < DEPTH_MAX && !inWord) {
      for (const [pattern, make] of INLINE) {
        const match = pattern.exec(rest);
        const node = match === null ? null : make(match, depth + 1);
        if (match === null || node === null) continue;
        found = { node, length: match[0].length };
        break;
      }
    }
    if (found === null) {
      const run = /^(.)\1*/s.exec(rest)![0]; // All of a run at once: a thousand stars are one step.
      plain += run;
      rest = rest.slice(run.length);
    } else {
      if (found.node.kind === "text") plain += found.node.text;
      else {
        flush();
        out.push(found.node);
      }
      rest = rest.slice(found.length);
    }
  }
  flush();
  return out;
}
