import { render } from "preact";
import { describe, expect, it } from "vitest";

import { sentenceEnd } from "../src/parts/announcer";
import { Markdown } from "../src/parts/markdown";

function shown(text: string): HTMLElement {
  const root = document.createElement("div");
  render(<Markdown text={text} />, root);
  return root;
}

describe("a model's text", () => {
  it("is formatted", () => {
    const root = shown("# A\n\nSay **b** and *c* with `d < e`.\n\n1. one\n2. two\n\n| x | y |\n|-|-|\n| 1 | 2 |\n\n> quote &amp; more");
    expect(root.querySelector("h3")!.textContent).toBe("A");
    expect([...root.querySelectorAll("strong, em, code")].map((e) => e.textContent)).toEqual(["b", "c", "d < e"]);
    expect(root.querySelectorAll("ol > li, td").length).toBe(4);
    expect(root.querySelector("blockquote")!.textContent).toBe("quote & more");
  });

  it("never becomes a link, an image or HTML", () => {
    const root = shown('<img src=x onerror=alert(1)> [go](javascript:alert(1)) ![see](https://e.example/x.png) <script>1</script>\n\n<div onclick="x()">y</div>');
    expect(root.querySelector("a, img, script, .markdown div, [onclick], [src], [href]")).toBeNull();
    expect(root.textContent).toContain("<img src=x onerror=alert(1)>");
    expect(root.textContent).toContain("go (javascript:alert(1))");
    expect(root.textContent).toContain("see");
  });

  it("cannot be reordered by invisible characters", () => {
    expect(shown("dose \u202e01\u202c mg\u2066").textContent).toBe("dose 01 mg");
  });

  it("survives any depth and length", () => {
    expect(shown(">".repeat(5_000) + "deep").textContent).toContain("deep");
    expect(shown("- ".repeat(2_000) + "deep").textContent).toContain("deep");
    expect(shown("[".repeat(20_000)).textContent!.length).toBe(20_000);
    expect(shown("**a** ".repeat(20_000)).querySelector(".plain")).not.toBeNull();
  });
});

describe("reading aloud", () => {
  it("goes by whole sentences", () => {
    expect(sentenceEnd("No")).toBe(0);
    expect(sentenceEnd("Give 2.5 mg. Then")).toBe(12);
    expect(sentenceEnd('He said "yes." Then')).toBe(14);
    expect(sentenceEnd("One. Two! Thr")).toBe(9);
  });
});
