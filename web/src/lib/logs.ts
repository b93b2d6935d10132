// Lines of several nodes as one list. Pure.

import type { LogLine, NodeLog } from "../api";

const LINES_MAX = 2000;

/** What is known and what nodes told now, each line once; newest first. */
export function joinLogs(known: LogLine[], told: NodeLog[]): LogLine[] {
  const key = (line: LogLine) => `${line.node} ${line.id} ${line.at}`;
  const there = new Set(known.map(key));
  const fresh: LogLine[] = [];
  for (const node of told) {
    for (const line of node.lines) {
      const one = { ...line, node: node.name };
      if (!there.has(key(one))) fresh.push(one);
    }
  }
  // Lines of one node keep their order, also where its clock stood still.
  return [...known, ...fresh].sort((a, b) => b.at - a.at || (a.node === b.node ? b.id - a.id : 0)).slice(0, LINES_MAX);
}
