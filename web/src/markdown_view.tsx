// Draws the tree of lib/markdown.ts. Texts become text nodes: there is no innerHTML on this page.

import { useMemo } from "preact/hooks";
import { type Block, type Inline, parseMarkdown } from "./lib/markdown";
import { type MathNode, parseMath } from "./lib/math";
import { CopyButton } from "./parts";

export function Markdown(props: { text: string }) {
  const blocks = useMemo(() => parseMarkdown(props.text), [props.text]);
  return <div class="prose">{blocks.map((block, i) => <BlockView key={i} block={block} />)}</div>;
}

function BlockView(props: { block: Block }) {
  const { block } = props;
  switch (block.kind) {
    case "paragraph": return <p><Inlines of={block.inside} /></p>;
    case "heading": {
      const Level = `h${Math.min(block.level + 2, 6)}` as "h3";
      return <Level><Inlines of={block.inside} /></Level>;
    }
    case "code": return <Code language={block.language} text={block.text} />;
    case "math": return <div class="math-block"><MathView tex={block.text} display /></div>;
    case "quote": return <blockquote>{block.blocks.map((one, i) => <BlockView key={i} block={one} />)}</blockquote>;
    case "rule": return <hr />;
    case "list": {
      const items = block.items.map((item, i) => <li key={i}>{item.length === 1 && item[0]!.kind === "paragraph" ? <Inlines of={item[0]!.inside} /> : item.map((one, j) => <BlockView key={j} block={one} />)}</li>);
      return block.ordered ? <ol start={block.start}>{items}</ol> : <ul>{items}</ul>;
    }
    case "table": return (
      <div class="table-wrap" tabIndex={0} role="region" aria-label="Table">
        <table>
          <thead><tr>{block.head.map((cell, i) => <th key={i} scope="col"><Inlines of={cell} /></th>)}</tr></thead>
          <tbody>{block.rows.map((row, i) => <tr key={i}>{row.map((cell, j) => <td key={j}><Inlines of={cell} /></td>)}</tr>)}</tbody>
        </table>
      </div>
    );
  }
}

function Inlines(props: { of: Inline[] }) {
  return <>{props.of.map((one, i) => <InlineView key={i} one={one} />)}</>;
}

function InlineView(props: { one: Inline }) {
  const { one } = props;
  switch (one.kind) {
    case "text": return <>{one.text}</>;
    case "code": return <code>{one.text}</code>;
    case "math": return <MathView tex={one.text} />;
    case "strong": return <strong><Inlines of={one.inside} /></strong>;
    case "em": return <em><Inlines of={one.inside} /></em>;
    case "del": return <del><Inlines of={one.inside} /></del>;
    case "link": return <a href={one.href} target="_blank" rel="noopener noreferrer nofollow"><Inlines of={one.inside} /></a>;
    case "break": return <br />;
  }
}

function Code(props: { language: string; text: string }) {
  return (
    <figure class="code">
      <figcaption>
        <span>{props.language || "text"}</span>
        <CopyButton text={props.text} class="button small ghost" />
      </figcaption>
      <pre tabIndex={0} aria-label={`Code${props.language === "" ? "" : ` in ${props.language}`}`}><code><Coloured text={props.text} /></code></pre>
    </figure>
  );
}

// Comments, texts, numbers and common words of many languages: enough to see the shape of code.
const CODE = /(\/\/[^\n]*|#(?![0-9a-fA-F]{3,8}\b)[^\n]*|\/\*[\s\S]*?\*\/)|("(?:[^"\\\n]|\\.)*"|'(?:[^'\\\n]|\\.)*'|`(?:[^`\\]|\\.)*`)|\b(\d[\d_.]*(?:[eE][+-]?\d+)?)\b|\b(def|class|return|if|elif|else|for|while|in|not|and|or|import|from|as|with|try|except|finally|raise|lambda|yield|async|await|const|let|var|function|new|export|default|struct|enum|impl|fn|pub|use|mut|match|void|int|float|double|bool|auto|template|typename|namespace|public|private|static|true|false|null|None|True|False|switch|case|break|continue|do|then|fi|done|SELECT|FROM|WHERE)\b/g;
const CODE_CLASSES = ["", "c-comment", "c-text", "c-number", "c-word"];
const CODE_MAX = 20000;

function Coloured(props: { text: string }) {
  const parts = useMemo(() => {
    if (props.text.length > CODE_MAX) return [{ text: props.text, kind: 0 }];
    const list: { text: string; kind: number }[] = [];
    let at = 0;
    for (const match of props.text.matchAll(CODE)) {
      if (match.index > at) list.push({ text: props.text.slice(at, match.index), kind: 0 });
      list.push({ text: match[0], kind: match.findIndex((group, i) => i > 0 && group !== undefined) });
      at = match.index + match[0].length;
    }
    list.push({ text: props.text.slice(at), kind: 0 });
    return list;
  }, [props.text]);
  return <>{parts.map((part, i) => (part.kind === 0 ? part.text : <span key={i} class={CODE_CLASSES[part.kind]}>{part.text}</span>))}</>;
}

function MathView(props: { tex: string; display?: boolean }) {
  const tree = useMemo(() => parseMath(props.tex), [props.tex]);
  if (tree === null) return <code class="tex">{props.tex}</code>;
  return <math display={props.display === true ? "block" : "inline"} aria-label={props.tex}><MathPart node={tree} /></math>;
}

const BIG = new Set(["∑", "∏"]);

function MathPart(props: { node: MathNode }) {
  const { node } = props;
  switch (node.kind) {
    case "id": return <mi>{node.text}</mi>;
    case "number": return <mn>{node.text}</mn>;
    case "op": return <mo>{node.text}</mo>;
    case "text": return <mtext>{node.text}</mtext>;
    case "row": return <mrow>{node.inside.map((one, i) => <MathPart key={i} node={one} />)}</mrow>;
    case "frac": return <mfrac><MathPart node={node.top} /><MathPart node={node.bottom} /></mfrac>;
    case "root": return node.degree === null ? <msqrt><MathPart node={node.inside} /></msqrt> : <mroot><MathPart node={node.inside} /><MathPart node={node.degree} /></mroot>;
    case "over": return <mover accent><MathPart node={node.base} /><mo>{node.mark}</mo></mover>;
    case "scripts": {
      const big = node.base.kind === "op" && BIG.has(node.base.text);
      const base = <MathPart node={node.base} />;
      if (node.sub !== null && node.sup !== null) {
        const inside = <>{base}<MathPart node={node.sub} /><MathPart node={node.sup} /></>;
        return big ? <munderover>{inside}</munderover> : <msubsup>{inside}</msubsup>;
      }
      if (node.sub !== null) return big ? <munder>{base}<MathPart node={node.sub} /></munder> : <msub>{base}<MathPart node={node.sub} /></msub>;
      return big ? <mover>{base}<MathPart node={node.sup!} /></mover> : <msup>{base}<MathPart node={node.sup!} /></msup>;
    }
  }
}
