// Reads the text that Prometheus scrapes, and what can be concluded from two of them. Pure.

export type Labels = Record<string, string>;
export interface Sample {
  labels: Labels;
  value: number;
}
export type Scrape = Map<string, Sample[]>;

const LINE = /^([a-zA-Z_:][\w:]*)(?:\{(.*)\})? (\S+)$/;
const LABEL = /([a-zA-Z_]\w*)="((?:[^"\\]|\\.)*)"/g;

export function parseScrape(text: string): Scrape {
  const scrape: Scrape = new Map();
  for (const line of text.split("\n")) {
    if (line === "" || line.startsWith("#")) continue;
    const match = LINE.exec(line);
    if (match === null) continue;
    const labels: Labels = {};
    for (const [, name, value] of (match[2] ?? "").matchAll(LABEL)) {
      labels[name!] = value!.replace(/\\(.)/g, (_, c: string) => (c === "n" ? "\n" : c));
    }
    const name = match[1]!;
    const value = match[3] === "+Inf" ? Infinity : Number(match[3]);
    const list = scrape.get(name);
    if (list === undefined) scrape.set(name, [{ labels, value }]);
    else list.push({ labels, value });
  }
  return scrape;
}

function fits(labels: Labels, wanted: Labels): boolean {
  return Object.entries(wanted).every(([name, value]) => labels[name] === value);
}

/** The sum of all samples that have these labels; 0 where there are none. */
export function total(scrape: Scrape | null, name: string, wanted: Labels = {}): number {
  let sum = 0;
  for (const sample of scrape?.get(name) ?? []) if (fits(sample.labels, wanted)) sum += sample.value;
  return sum;
}

/** What a counter grew by; a server that began anew counts from zero. */
export function growth(before: Scrape | null, after: Scrape | null, name: string, wanted: Labels = {}): number {
  const now = total(after, name, wanted);
  const then = total(before, name, wanted);
  return now >= then ? now - then : now;
}

export interface Histogram {
  bounds: number[]; // Ascending, the last Infinity.
  counts: number[]; // Of each bucket alone.
  sum: number;
}

export function histogram(scrape: Scrape | null, name: string, wanted: Labels = {}): Histogram {
  const byBound = new Map<number, number>();
  for (const sample of scrape?.get(`${name}_bucket`) ?? []) {
    if (!fits(sample.labels, wanted)) continue;
    const bound = sample.labels.le === "+Inf" ? Infinity : Number(sample.labels.le);
    byBound.set(bound, (byBound.get(bound) ?? 0) + sample.value);
  }
  const bounds = [...byBound.keys()].sort((a, b) => a - b);
  let before = 0;
  const counts = bounds.map((bound) => {
    const all = byBound.get(bound)!;
    const own = all - before;
    before = all;
    return own;
  });
  return { bounds, counts, sum: total(scrape, `${name}_sum`, wanted) };
}

/** What came to a histogram since `before`. */
export function since(before: Histogram, after: Histogram): Histogram {
  const restarted = after.counts.some((n, i) => n < (before.counts[i] ?? 0));
  if (restarted || before.bounds.length !== after.bounds.length) return after;
  return { bounds: after.bounds, counts: after.counts.map((n, i) => n - before.counts[i]!), sum: after.sum - before.sum };
}

export function observations(of: Histogram): number {
  return of.counts.reduce((sum, n) => sum + n, 0);
}

/** The value below which the share `q` of all lies, linear within a bucket; null where there are none. */
export function quantile(of: Histogram, q: number): number | null {
  const all = observations(of);
  if (all <= 0) return null;
  let left = q * all;
  for (let i = 0; i < of.bounds.length; i++) {
    const n = of.counts[i]!;
    const low = i === 0 ? 0 : of.bounds[i - 1]!;
    if (left <= n && n > 0) return of.bounds[i] === Infinity ? low : low + (of.bounds[i]! - low) * (left / n);
    left -= n;
  }
  return of.bounds[of.bounds.length - 2] ?? null;
}
