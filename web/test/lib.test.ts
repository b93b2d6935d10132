import { describe, expect, it } from "vitest";
import { type Choice, USUAL, addChunk, emptyChoice, loadConversations, requestOf, saveConversations, toolsOf } from "../src/lib/chat";
import { ago, bytes, idList, percent, seconds, short } from "../src/lib/format";
import { joinLogs } from "../src/lib/logs";
import { growth, histogram, observations, parseScrape, quantile, since, total } from "../src/lib/metrics";
import { EventReader } from "../src/lib/sse";
import { layout, moveBoundary, radii } from "../src/lib/topology";
import { movedIn, ownersOf } from "../src/views/experts";

describe("format", () => {
  it("writes three digits", () => {
    expect([0, 1.234, 12.34, 123.4, 12345, 2.5e6].map(short)).toEqual(["0", "1.23", "12.3", "123", "12.3 k", "2.50 M"]);
    expect([bytes(512), bytes(3 * 2 ** 30), bytes(null)]).toEqual(["512 B", "3 GiB", "unknown"]);
    expect([seconds(0.0000453), seconds(0.0123), seconds(3.5), seconds(600), seconds(null)]).toEqual(["45.3 µs", "12.3 ms", "3.50 s", "10 min", "–"]);
    expect([percent(0.005), percent(0.5), percent(Number.NaN)]).toEqual(["0.5 %", "50 %", "–"]);
    expect([ago(100, 102), ago(100, 130), ago(100, 4000)]).toEqual(["now", "30 s ago", "1 h ago"]);
  });
  it("reads lists of ids as plan files have them", () => {
    expect(idList("0-3,7")).toEqual([0, 1, 2, 3, 7]);
    expect(idList("")).toEqual([]);
  });
});

const SCRAPE = `# HELP x y
a_total{node="x",text="say \\"hi\\"\\n"} 3
a_total{node="y"} 4
h_bucket{le="0.1"} 50
h_bucket{le="1"} 90
h_bucket{le="+Inf"} 100
h_sum 30
h_count 100
`;

describe("metrics", () => {
  it("reads labels with escapes, and sums by label", () => {
    const scrape = parseScrape(SCRAPE);
    expect(scrape.get("a_total")![0]!.labels.text).toBe('say "hi"\n');
    expect([total(scrape, "a_total"), total(scrape, "a_total", { node: "y" }), total(scrape, "none")]).toEqual([7, 4, 0]);
  });
  it("reads quantiles off buckets", () => {
    const histo = histogram(parseScrape(SCRAPE), "h");
    expect(observations(histo)).toBe(100);
    expect(quantile(histo, 0.5)).toBeCloseTo(0.1);
    expect(quantile(histo, 0.9)).toBeCloseTo(1);
    expect(quantile(histo, 0.99)).toBe(1); // Beyond the last bound nothing is known.
    expect(quantile(histogram(parseScrape(""), "h"), 0.5)).toBeNull();
  });
  it("takes what is new, and all of it after a restart", () => {
    const before = histogram(parseScrape(SCRAPE), "h");
    const after = histogram(parseScrape(SCRAPE.replace('"0.1"} 50', '"0.1"} 60').replace('"1"} 90', '"1"} 100').replace('Inf"} 100', 'Inf"} 110')), "h");
    expect(since(before, after).counts).toEqual([10, 0, 0]);
    expect(since(after, before)).toBe(before);
    expect(growth(parseScrape("c 9"), parseScrape("c 2"), "c")).toBe(2);
  });
});

describe("topology", () => {
  it("keeps neighbours of the pipeline next to each other, within the width", () => {
    for (const width of [300, 700, 1200]) {
      for (const n of [1, 3, 8, 24]) {
        const { places, height } = layout(Array.from({ length: n }, () => 8), width);
        expect(places).toHaveLength(n);
        places.forEach((place, i) => {
          expect(place.x - place.r).toBeGreaterThanOrEqual(0);
          expect(place.x + place.r).toBeLessThanOrEqual(width);
          expect(place.y + place.r).toBeLessThan(height);
          const next = places[i + 1];
          if (next !== undefined) expect(Math.min(Math.abs(next.x - place.x), Math.abs(next.y - place.y))).toBeLessThan(1);
        });
      }
    }
  });
  it("draws areas in proportion to memory", () => {
    const [small, large] = radii([25, 100]);
    expect(large! / small!).toBeCloseTo(2, 0);
  });
  it("moves boundaries without losing a layer", () => {
    expect(moveBoundary([2, 2, 2], 0, 1)).toEqual([3, 1, 2]);
    expect(moveBoundary([2, 2, 2], 1, -9)).toEqual([2, 0, 4]);
    expect(moveBoundary([2, 2, 2], 1, 9)).toEqual([2, 4, 0]);
  });
});

describe("chat", () => {
  it("reads events however the stream is cut", () => {
    const text = 'data: {"a":1}\n\ndata: x\r\n\r\n: ping\n\ndata: [DONE]\n\n';
    for (let size = 1; size < 12; size++) {
      const reader = new EventReader();
      const got: string[] = [];
      for (let i = 0; i < text.length; i += size) got.push(...reader.push(text.slice(i, i + size)));
      expect(got).toEqual(['{"a":1}', "x", "[DONE]"]);
    }
  });
  it("puts text, reasoning, calls and probabilities where they belong", () => {
    const choices: Choice[] = [];
    addChunk(choices, '{"choices":[{"index":1,"delta":{"reasoning_content":"hm"}}]}');
    addChunk(choices, '{"choices":[{"index":1,"delta":{"content":"a"},"logprobs":{"content":[{"token":"a","logprob":-0.1,"top_logprobs":[{"token":"b","logprob":-2}]}]}}]}');
    addChunk(choices, '{"choices":[{"index":0,"delta":{"tool_calls":[{"index":0,"id":"c1","function":{"name":"f","arguments":""}}]}}]}');
    addChunk(choices, '{"choices":[{"index":0,"delta":{"tool_calls":[{"index":0,"function":{"arguments":"{}"}}]},"finish_reason":"tool_calls"}]}');
    expect(choices[0]).toMatchObject({ calls: [{ id: "c1", name: "f", arguments: "{}" }], reason: "tool_calls" });
    expect(choices[1]).toMatchObject({ content: "a", reasoning: "hm", tokens: [{ text: "a", logprob: -0.1, top: [{ text: "b", logprob: -2 }] }] });
    expect(() => addChunk(choices, '{"error":{"message":"lost"}}')).toThrow("lost");
  });
  it("sends the choice that is shown, and only what is set", () => {
    const assistant = { role: "assistant" as const, choices: [{ ...emptyChoice(), content: "a" }, { ...emptyChoice(), content: "b" }], chosen: 1, stats: null, error: "" };
    const body = requestOf([{ role: "user", text: "q" }, assistant, { role: "user", text: "r" }], { ...USUAL, choices: 2 }, "m");
    expect(body).toMatchObject({ model: "m", n: 2, messages: [{ content: "q" }, { content: "b" }, { content: "r" }] });
    expect(Object.keys(body)).not.toContain("temperature");
    expect(toolsOf({ ...USUAL, tools: "{" }).error).toContain("not JSON");
  });
  it("keeps the newest where a browser has no room for all", () => {
    const kept = new Map<string, string>();
    const storage = {
      getItem: (key: string) => kept.get(key) ?? null,
      setItem: (key: string, value: string) => {
        if (value.length > 900) throw new Error("full");
        kept.set(key, value);
      },
    } as unknown as Storage;
    const list = Array.from({ length: 8 }, (_, i) => ({ id: `${i}`, title: "t", at: i, settings: USUAL, turns: [{ role: "user" as const, text: "x".repeat(80) }] }));
    expect(saveConversations(storage, list)).toBe(false);
    expect(loadConversations(storage)[0]!.id).toBe("7");
    expect(saveConversations(storage, list.slice(0, 1))).toBe(true);
    kept.set("shoal.chats", "not json");
    expect(loadConversations(storage)).toEqual([]);
  });
});

describe("experts", () => {
  it("counts those that would get another owner", () => {
    const plan = { plan: { experts: [{ layers: [0, 2], owners: { a: "0-1", b: "2" } }] } } as never;
    const layer = (owners: number[]) => ({ layer: 1, owners, rows: [1, 1, 1] });
    const report = { nodes: ["a", "b"], layers: [layer([0, 0, 1])] } as never;
    expect(movedIn(report, ownersOf(plan))).toBe(0);
    expect(movedIn({ nodes: ["a", "b"], layers: [layer([1, 0, 0])] } as never, ownersOf(plan))).toBe(2);
  });
});

describe("logs", () => {
  const line = (id: number, at: number) => ({ id, at, level: "info", text: `line ${id}` });
  it("has each line once, the newest first, each node's in their order", () => {
    const first = joinLogs([], [{ name: "a", lines: [line(1, 10), line(2, 10)] }, { name: "b", lines: [line(1, 12)] }]);
    expect(first.map((one) => `${one.node}${one.id}`)).toEqual(["b1", "a2", "a1"]);
    const second = joinLogs(first, [{ name: "a", lines: [line(2, 10), line(3, 11)] }, { name: "c", lines: [], error: "is away" }]);
    expect(second.map((one) => `${one.node}${one.id}`)).toEqual(["b1", "a3", "a2", "a1"]);
  });
});
