// Where the drawing puts nodes and the ways between them. Pure.

export interface Place {
  x: number;
  y: number;
  r: number;
}
export interface Layout {
  width: number;
  height: number;
  beside: boolean; // Names stand to the right of the circles, which stand in one column.
  places: Place[];
}

const RADIUS_MIN = 22;
const RADIUS_MAX = 44;

/** Areas are in proportion to memory, so radii to its root; those whose memory is unknown are small. */
export function radii(memory: (number | null)[]): number[] {
  const most = Math.max(...memory.map((bytes) => bytes ?? 0), 1);
  return memory.map((bytes) => Math.max(RADIUS_MIN, RADIUS_MAX * Math.sqrt((bytes ?? 0) / most)));
}

/** Rows that are read to and fro, as many nodes in each as the width has room for: neighbours in the pipeline stay neighbours. */
export function layout(memory: (number | null)[], width: number): Layout {
  const radius = radii(memory);
  const columns = Math.max(1, Math.min(memory.length, Math.floor(width / 190)));
  const rows = Math.max(1, Math.ceil(memory.length / columns));
  const beside = columns === 1 && memory.length > 1;
  const dx = width / columns;
  const dy = beside ? 148 : 176;
  const places = radius.map((r, i) => {
    const row = Math.floor(i / columns);
    const along = i % columns;
    const column = row % 2 === 0 ? along : columns - 1 - along;
    return { x: beside ? 104 : dx * (column + 0.5), y: (beside ? 70 : 96) + dy * row, r };
  });
  return { width, height: beside ? 140 + dy * (rows - 1) : 202 + dy * (rows - 1), beside, places };
}

/** An arc from the rim of one circle to that of another, bent to the left of its direction. */
export function arc(from: Place, to: Place): string {
  const bend = 0.12; // Of the distance.
  const dx = to.x - from.x;
  const dy = to.y - from.y;
  const far = Math.hypot(dx, dy) || 1;
  const ux = dx / far;
  const uy = dy / far;
  const x1 = from.x + ux * (from.r + 6);
  const y1 = from.y + uy * (from.r + 6);
  const x2 = to.x - ux * (to.r + 10);
  const y2 = to.y - uy * (to.r + 10);
  const mx = (x1 + x2) / 2 + uy * far * bend;
  const my = (y1 + y2) / 2 - ux * far * bend;
  return `M${x1.toFixed(1)} ${y1.toFixed(1)}Q${mx.toFixed(1)} ${my.toFixed(1)} ${x2.toFixed(1)} ${y2.toFixed(1)}`;
}

/** The way back from the last node to the first: a lane beside the nodes, where no name stands. */
export function lane(plan: Layout, from: Place, to: Place): string {
  const bend = 14;
  if (from.y === to.y) {
    const y = 20; // Above them.
    const left = Math.sign(to.x - from.x);
    return `M${from.x} ${from.y - from.r - 14}V${y + bend}Q${from.x} ${y} ${from.x + left * bend} ${y}H${to.x - left * bend}Q${to.x} ${y} ${to.x} ${y + bend}V${to.y - to.r - 14}`;
  }
  const x = Math.max(10, Math.min(...plan.places.map((place) => place.x - place.r)) - 30); // To their left.
  return `M${from.x - from.r - 14} ${from.y}H${x + bend}Q${x} ${from.y} ${x} ${from.y - bend}V${to.y + bend}Q${x} ${to.y} ${x + bend} ${to.y}H${to.x - to.r - 14}`;
}

/** Half a circle's worth of a ring: the outline of a share of 0 to 1, from the top on. */
export function ring(place: Place, radius: number, share: number): string {
  const part = Math.min(Math.max(share, 0), 0.9999);
  const angle = 2 * Math.PI * part - Math.PI / 2;
  const x = place.x + radius * Math.cos(angle);
  const y = place.y + radius * Math.sin(angle);
  return `M${place.x.toFixed(1)} ${(place.y - radius).toFixed(1)}A${radius} ${radius} 0 ${part > 0.5 ? 1 : 0} 1 ${x.toFixed(1)} ${y.toFixed(1)}`;
}

/** Moves the boundary between the parts `index` and `index + 1` by so many layers, no part below 0. */
export function moveBoundary(split: number[], index: number, by: number): number[] {
  const next = [...split];
  const left = next[index] ?? 0;
  const right = next[index + 1] ?? 0;
  const moved = Math.max(-left, Math.min(right, by));
  next[index] = left + moved;
  next[index + 1] = right - moved;
  return next;
}
