// A small part of TeX as a tree that MathML is made of; null where the text has more than that. Pure.

export type MathNode =
  | { kind: "id" | "number" | "op" | "text"; text: string }
  | { kind: "row"; inside: MathNode[] }
  | { kind: "frac"; top: MathNode; bottom: MathNode }
  | { kind: "root"; inside: MathNode; degree: MathNode | null }
  | { kind: "scripts"; base: MathNode; sub: MathNode | null; sup: MathNode | null }
  | { kind: "over"; base: MathNode; mark: string };

const SYMBOLS: Record<string, string> = {
  alpha: "α", beta: "β", gamma: "γ", delta: "δ", epsilon: "ϵ", varepsilon: "ε", zeta: "ζ", eta: "η", theta: "θ", iota: "ι",
  kappa: "κ", lambda: "λ", mu: "μ", nu: "ν", xi: "ξ", pi: "π", rho: "ρ", sigma: "σ", tau: "τ", phi: "ϕ", varphi: "φ", chi: "χ",
  psi: "ψ", omega: "ω", Gamma: "Γ", Delta: "Δ", Theta: "Θ", Lambda: "Λ", Xi: "Ξ", Pi: "Π", Sigma: "Σ", Phi: "Φ", Psi: "Ψ",
  Omega: "Ω", infty: "∞", partial: "∂", nabla: "∇", ell: "ℓ", hbar: "ℏ", emptyset: "∅", ldots: "…", cdots: "⋯", dots: "…",
};
const OPERATORS: Record<string, string> = {
  times: "×", cdot: "⋅", div: "÷", pm: "±", mp: "∓", le: "≤", leq: "≤", ge: "≥", geq: "≥", ne: "≠", neq: "≠", approx: "≈",
  equiv: "≡", sim: "∼", propto: "∝", in: "∈", notin: "∉", subset: "⊂", subseteq: "⊆", cup: "∪", cap: "∩", to: "→",
  rightarrow: "→", leftarrow: "←", Rightarrow: "⇒", implies: "⟹", iff: "⟺", mapsto: "↦", forall: "∀", exists: "∃", neg: "¬",
  land: "∧", lor: "∨", sum: "∑", prod: "∏", int: "∫", oint: "∮", langle: "⟨", rangle: "⟩", mid: "∣", ll: "≪", gg: "≫",
  "{": "{", "}": "}", "|": "‖", circ: "∘", ast: "∗", star: "⋆", oplus: "⊕", otimes: "⊗", perp: "⊥", parallel: "∥",
};
const NAMES = new Set(["sin", "cos", "tan", "log", "ln", "exp", "min", "max", "lim", "det", "gcd", "deg", "arg", "sup", "inf", "dim", "ker"]);
const MARKS: Record<string, string> = { hat: "^", bar: "¯", vec: "→", dot: "˙", tilde: "~", overline: "¯" };
const TEXTS = new Set(["text", "mathrm", "operatorname", "mathbf", "mathit", "mathsf", "mathcal", "mathbb", "textbf"]);
const DEPTH_MAX = 24;
const LENGTH_MAX = 2000;

export function parseMath(tex: string): MathNode | null {
  if (tex.length > LENGTH_MAX) return null;
  try {
    const reader = new Reader(tex);
    const row = reader.row("", 0);
    return reader.done() ? row : null;
  } catch (error) {
    if (error instanceof Unknown) return null;
    throw error;
  }
}

class Unknown extends Error {}

class Reader {
  #at = 0;
  constructor(private readonly tex: string) {}

  done(): boolean {
    return this.#at >= this.tex.length;
  }

  /** Up to `end`, which is read, too; "" is the end of the text. */
  row(end: string, depth: number): MathNode {
    if (depth > DEPTH_MAX) throw new Unknown();
    const inside: MathNode[] = [];
    for (;;) {
      this.#space();
      if (this.done()) {
        if (end !== "") throw new Unknown();
        break;
      }
      if (end !== "" && this.tex.startsWith(end, this.#at)) {
        this.#at += end.length;
        break;
      }
      inside.push(this.#scripted(depth));
    }
    return inside.length === 1 ? inside[0]! : { kind: "row", inside };
  }

  #space(): void {
    while (/\s/.test(this.tex[this.#at] ?? "")) this.#at++;
  }

  #scripted(depth: number): MathNode {
    const base = this.#atom(depth);
    let sub: MathNode | null = null;
    let sup: MathNode | null = null;
    for (;;) {
      this.#space();
      const mark = this.tex[this.#at];
      if (mark === "'") {
        this.#at++;
        sup = { kind: "op", text: "′" };
      } else if (mark === "_" && sub === null) {
        this.#at++;
        sub = this.#argument(depth);
      } else if (mark === "^" && sup === null) {
        this.#at++;
        sup = this.#argument(depth);
      } else break;
    }
    return sub === null && sup === null ? base : { kind: "scripts", base, sub, sup };
  }

  #argument(depth: number): MathNode {
    this.#space();
    return this.#atom(depth + 1);
  }

  #atom(depth: number): MathNode {
    const rest = this.tex.slice(this.#at);
    const number = /^\d+(?:[.,]\d+)*/.exec(rest);
    if (number !== null) {
      this.#at += number[0].length;
      return { kind: "number", text: number[0] };
    }
    const c = rest[0];
    if (c === undefined || c === "}" || c === "^" || c === "_" || c === "&" || c === "#" || c === "%" || c === "$") throw new Unknown();
    if (c === "\\") return this.#command(depth);
    this.#at++;
    if (c === "{") return this.row("}", depth + 1);
    if (/\p{L}/u.test(c)) return { kind: "id", text: c };
    return { kind: "op", text: c === "-" ? "−" : c === "*" ? "∗" : c === "~" ? " " : c };
  }

  #command(depth: number): MathNode {
    const match = /^\\([a-zA-Z]+|.)/s.exec(this.tex.slice(this.#at));
    if (match === null) throw new Unknown();
    this.#at += match[0].length;
    const name = match[1]!;
    if (name in SYMBOLS) return { kind: "id", text: SYMBOLS[name]! };
    if (name in OPERATORS) return { kind: "op", text: OPERATORS[name]! };
    if (NAMES.has(name)) return { kind: "text", text: name };
    if (",;:! ".includes(name) || name === "quad" || name === "qquad") return { kind: "text", text: "\u2009" };
    if (name === "left" || name === "right" || name.toLowerCase() === "big" || name.toLowerCase() === "bigg") return this.#delimiter();
    if (name === "displaystyle") return { kind: "row", inside: [] };
    if (name === "frac" || name === "dfrac" || name === "tfrac") return { kind: "frac", top: this.#argument(depth), bottom: this.#argument(depth) };
    if (name === "binom") {
      const inside: MathNode = { kind: "row", inside: [this.#argument(depth), { kind: "op", text: "," }, this.#argument(depth)] };
      return { kind: "row", inside: [{ kind: "op", text: "(" }, inside, { kind: "op", text: ")" }] };
    }
    if (name === "sqrt") return this.#root(depth);
    if (name in MARKS) return { kind: "over", base: this.#argument(depth), mark: MARKS[name]! };
    if (TEXTS.has(name)) return this.#words();
    throw new Unknown();
  }

  #delimiter(): MathNode {
    this.#space();
    const match = /^(\\[{}|]|\\langle|\\rangle|[()[\]|.])/.exec(this.tex.slice(this.#at));
    if (match === null) throw new Unknown();
    this.#at += match[0].length;
    const text = match[0] === "." ? "" : match[0].startsWith("\\") ? OPERATORS[match[0].slice(1)]! : match[0];
    return { kind: "op", text };
  }

  #root(depth: number): MathNode {
    this.#space();
    let degree: MathNode | null = null;
    if (this.tex[this.#at] === "[") {
      this.#at++;
      degree = this.row("]", depth + 1);
    }
    return { kind: "root", inside: this.#argument(depth), degree };
  }

  #words(): MathNode {
    const match = /^\s*\{([^{}\\]*)\}/.exec(this.tex.slice(this.#at));
    if (match === null) throw new Unknown();
    this.#at += match[0].length;
    return { kind: "text", text: match[1]! };
  }
}
