/**
 * A model's text as elements, never as HTML.
 *
 * Everything becomes text nodes and a fixed set of elements without attributes from the text. HTML
 * is shown as it was written; a link is shown as its text and its address; an image as its text:
 * nothing can run, load or be clicked.
 */

import { Lexer, type Token, type Tokens } from "marked";
import type { ComponentChild, VNode } from "preact";

import { unturned } from "./bidi";

/** Beyond this, formatting costs more than it gives. */
const LONGEST = 60_000;
const DEEPEST = 12;
const ENTITIES: Readonly<Record<string, string>> = {
  "&amp;": "&", "&lt;": "<", "&gt;": ">", "&quot;": '"', "&#39;": "'", "&nbsp;": "\u00a0",
};

export function Markdown({ text }: { text: string }): VNode {
  return <div class="markdown">{rendered(unturned(text))}</div>;
}

function rendered(text: string): ComponentChild {
  if (text.length <= LONGEST) {
    try {
      return blocks(Lexer.lex(text, { gfm: true }), 0);
    } catch {
      // Nested beyond what the lexer can follow: shown as it was written.
    }
  }
  return <p class="plain">{text}</p>;
}

function blocks(tokens: readonly Token[], depth: number): ComponentChild[] {
  return tokens.map((token) => block(token, depth + 1));
}

function block(token: Token, depth: number): ComponentChild {
  if (depth > DEEPEST) return token.raw;
  switch (token.type) {
    case "space":
    case "def":
      return null;
    case "heading":
      return heading(token as Tokens.Heading, depth);
    case "paragraph":
      return <p>{inline((token as Tokens.Paragraph).tokens, depth)}</p>;
    case "code":
      return (
        <pre tabIndex={0}>
          <code>{(token as Tokens.Code).text}</code>
        </pre>
      );
    case "blockquote":
      return <blockquote>{blocks((token as Tokens.Blockquote).tokens, depth)}</blockquote>;
    case "hr":
      return <hr />;
    case "list":
      return list(token as Tokens.List, depth);
    case "table":
      return table(token as Tokens.Table, depth);
    case "html":
      return <p class="plain">{token.raw.trimEnd()}</p>;
    default:
      return inline([token], depth);
  }
}

function heading(token: Tokens.Heading, depth: number): ComponentChild {
  const content = inline(token.tokens, depth);
  // The page has its own h1 and h2: the text's headings begin below them.
  return token.depth <= 2 ? <h3>{content}</h3> : <h4>{content}</h4>;
}

function list(token: Tokens.List, depth: number): ComponentChild {
  const items = token.items.map((item) => <li>{blocks(item.tokens, depth)}</li>);
  return token.ordered ? <ol start={Number(token.start) || 1}>{items}</ol> : <ul>{items}</ul>;
}

function table(token: Tokens.Table, depth: number): ComponentChild {
  const row = (cells: Tokens.TableCell[]): ComponentChild => (
    <tr>{cells.map((cell) => (cell.header ? <th scope="col">{inline(cell.tokens, depth)}</th> : <td>{inline(cell.tokens, depth)}</td>))}</tr>
  );
  return (
    <div class="table" tabIndex={0}>
      <table>
        <thead>{row(token.header)}</thead>
        <tbody>{token.rows.map(row)}</tbody>
      </table>
    </div>
  );
}

function inline(tokens: readonly Token[] | undefined, depth: number): ComponentChild[] {
  return (tokens ?? []).map((token) => piece(token, depth + 1));
}

function piece(token: Token, depth: number): ComponentChild {
  if (depth > DEEPEST) return token.raw;
  switch (token.type) {
    case "strong":
      return <strong>{inline((token as Tokens.Strong).tokens, depth)}</strong>;
    case "em":
      return <em>{inline((token as Tokens.Em).tokens, depth)}</em>;
    case "del":
      return <del>{inline((token as Tokens.Del).tokens, depth)}</del>;
    case "codespan":
      return <code>{(token as Tokens.Codespan).text}</code>;
    case "br":
      return <br />;
    case "link":
      return link(token as Tokens.Link, depth);
    case "image":
      return (token as Tokens.Image).text;
    case "checkbox":
      return (token as { checked?: boolean }).checked ? "☑ " : "☐ ";
    case "escape":
      return (token as Tokens.Escape).text;
    case "text": {
      const { tokens, text } = token as Tokens.Text;
      return tokens ? inline(tokens, depth) : decoded(text);
    }
    default:
      return token.raw;
  }
}

function link(token: Tokens.Link, depth: number): ComponentChild {
  const shown = inline(token.tokens, depth);
  const address = token.href.replace(/^mailto:/, "");
  return token.text === address ? shown : [...shown, ` (${address})`];
}

function decoded(text: string): string {
  return text.replace(/&(?:amp|lt|gt|quot|#39|nbsp);/g, (entity) => ENTITIES[entity] ?? entity);
}
