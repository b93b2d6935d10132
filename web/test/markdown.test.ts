import { describe, expect, it } from "vitest";
import { type Block, type Inline, parseInline, parseMarkdown, safeHref } from "../src/lib/markdown";
import { parseMath } from "../src/lib/math";

function plain(inside: Inline[]): string {
  return inside.map((one) => ("text" in one ? one.text : "inside" in one ? plain(one.inside) : "\n")).join("");
}
const kinds = (blocks: Block[]) => blocks.map((block) => block.kind);

describe("parseMarkdown", () => {
  it("keeps what a model writes as HTML as text", () => {
    const [block] = parseMarkdown("<img src=x onerror=alert(1)> <script>x</script>");
    expect(block).toEqual({ kind: "paragraph", inside: [{ kind: "text", text: "<img src=x onerror=alert(1)> <script>x</script>" }] });
  });
  it("follows no address but http, https and mailto", () => {
    for (const href of ["javascript:alert(1)", "JaVaScript:x", "data:text/html,x", "//x.org", "/cluster/drain", "vbscript:x", " java\nscript:x"]) {
      expect(safeHref(href)).toBeNull();
      expect(parseInline(`[x](${href})`).some((one) => one.kind === "link")).toBe(false);
    }
    expect(parseInline("[a](https://x.org/b_(c))")).toEqual([{ kind: "link", href: "https://x.org/b_(c)", inside: [{ kind: "text", text: "a" }] }]);
  });
  it("reads blocks", () => {
    const text = "# H\n\ntext\nmore\n\n- a\n- b\n  - c\n\n1. x\n2. y\n\n> q\n\n---\n\n| a | b |\n|---|---|\n| 1 | 2 |\n\n$$x^2$$\n";
    expect(kinds(parseMarkdown(text))).toEqual(["heading", "paragraph", "list", "list", "quote", "rule", "table", "math"]);
  });
  it("nests lists, and keeps code within an item", () => {
    const [list] = parseMarkdown("1. a\n   ```js\n   let x;\n   ```\n2. b\n   - c");
    expect(list?.kind === "list" && list.items.map(kinds)).toEqual([["paragraph", "code"], ["paragraph", "list"]]);
  });
  it("shows a fence that is not closed yet as code", () => {
    expect(parseMarkdown("```py\nx = 1 # **no**")).toEqual([{ kind: "code", language: "py", text: "x = 1 # **no**", open: true }]);
  });
  it("reads emphasis, but not within words or between spaces", () => {
    expect(parseInline("**a** *b* `c*d*` ~~e~~").map((one) => one.kind)).toEqual(["strong", "text", "em", "text", "code", "text", "del"]);
    expect(plain(parseInline("snake_case_name 2 * 3 * 4"))).toBe("snake_case_name 2 * 3 * 4");
    expect(parseInline("snake_case_name 2 * 3 * 4")).toHaveLength(1);
  });
  it("tells money from formulas", () => {
    expect(parseInline("$x^2$ costs $5 and $7").map((one) => one.kind)).toEqual(["math", "text"]);
  });
  it("ends on texts made to be slow, and loses none of them", () => {
    for (const piece of ["*", "[", "`", "_a", "**a ", "$a", "|", "\\(", "![](", "<http://"]) {
      const [block] = parseMarkdown(`x${piece.repeat(4000)}`);
      expect(block!.kind === "paragraph" && plain(block!.inside).startsWith("x")).toBe(true);
    }
    for (let i = 1; i < 200; i += 40) expect(parseMarkdown("> ".repeat(i) + "- ".repeat(i) + "x")).toHaveLength(1);
  });
});

describe("parseMath", () => {
  it("reads fractions, roots and scripts", () => {
    expect(parseMath("\\frac{a}{b}")).toEqual({ kind: "frac", top: { kind: "id", text: "a" }, bottom: { kind: "id", text: "b" } });
    expect(parseMath("x_i^{2}")).toMatchObject({ kind: "scripts", base: { text: "x" }, sub: { text: "i" }, sup: { text: "2" } });
    expect(parseMath("\\sqrt[3]{x}")).toMatchObject({ kind: "root", degree: { text: "3" } });
    expect(parseMath("\\sum_{k=1}^n \\alpha_k \\le \\left(\\frac{1}{2}\\right)")).not.toBeNull();
  });
  it("gives up on what it does not know", () => {
    for (const tex of ["\\begin{matrix}a\\end{matrix}", "{a", "a}", "\\frac{a}", "x^", "\\foo", "a & b", "{".repeat(100)]) expect(parseMath(tex)).toBeNull();
  });
});
