// Numbers as people read them. Pure.

const BYTE_UNITS = ["B", "KiB", "MiB", "GiB", "TiB"];

/** Three significant digits at most: 1.23, 12.3, 123. */
export function short(value: number): string {
  if (!Number.isFinite(value)) return "–";
  const size = Math.abs(value);
  if (size >= 1e9) return `${short(value / 1e9)} G`;
  if (size >= 1e6) return `${short(value / 1e6)} M`;
  if (size >= 10000) return `${short(value / 1000)} k`;
  if (size >= 100 || Number.isInteger(value)) return Math.round(value).toString();
  return value.toFixed(size >= 10 ? 1 : 2);
}

export function bytes(value: number | null | undefined): string {
  if (value === null || value === undefined || !Number.isFinite(value)) return "unknown";
  let unit = 0;
  let scaled = value;
  while (Math.abs(scaled) >= 1024 && unit < BYTE_UNITS.length - 1) {
    scaled /= 1024;
    unit++;
  }
  return `${unit === 0 ? Math.round(scaled) : short(scaled)} ${BYTE_UNITS[unit]}`;
}

/** A time in seconds. */
export function seconds(value: number | null | undefined): string {
  if (value === null || value === undefined || !Number.isFinite(value)) return "–";
  if (value < 1e-3) return `${short(value * 1e6)} µs`;
  if (value < 1) return `${short(value * 1e3)} ms`;
  if (value < 120) return `${short(value)} s`;
  if (value < 7200) return `${Math.round(value / 60)} min`;
  return `${short(value / 3600)} h`;
}

export function percent(share: number | null | undefined): string {
  if (share === null || share === undefined || !Number.isFinite(share)) return "–";
  return `${(100 * share).toFixed(share > 0 && share < 0.1 ? 1 : 0)} %`;
}

/** How long ago, for a list that is read from the newest on. */
export function ago(at: number, now: number): string {
  const past = Math.max(0, Math.round(now - at));
  if (past < 5) return "now";
  if (past < 60) return `${past} s ago`;
  if (past < 3600) return `${Math.round(past / 60)} min ago`;
  if (past < 86400) return `${Math.round(past / 3600)} h ago`;
  return `${Math.round(past / 86400)} d ago`;
}

export function clock(at: number): string {
  return new Date(at * 1000).toLocaleTimeString([], { hour12: false });
}

export function count(value: number, one: string, many = `${one}s`): string {
  return `${value.toLocaleString("en")} ${value === 1 ? one : many}`;
}

/** "0-3,7" -> [0, 1, 2, 3, 7], as plan files list experts. */
export function idList(text: string): number[] {
  const ids: number[] = [];
  for (const part of text.split(",")) {
    const ends = part.trim().split("-").map(Number);
    const first = ends[0];
    const last = ends[ends.length - 1];
    if (first === undefined || last === undefined || !Number.isInteger(first) || !Number.isInteger(last) || part.trim() === "") continue;
    for (let id = first; id <= last && ids.length < 4096; id++) ids.push(id);
  }
  return ids;
}
