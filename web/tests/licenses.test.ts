import { readFileSync } from "node:fs";
import { join } from "node:path";
import { expect, test } from "vitest";

import { licenses } from "../plugins/licenses";

const WEB = join(import.meta.dirname, "..");

function written(): string {
  const plugin = licenses() as unknown as {
    configResolved(config: { root: string }): void;
    generateBundle(this: object): void;
  };
  const files: Record<string, string> = {};
  plugin.configResolved({ root: WEB });
  plugin.generateBundle.call({
    emitFile: (file: { fileName: string; source: string }) => (files[file.fileName] = file.source),
    error: (message: string) => expect.unreachable(message),
  });
  return files["licenses.txt"] ?? "";
}

test("the app carries the license of everything that it is made of", () => {
  const { dependencies } = JSON.parse(readFileSync(join(WEB, "package.json"), "utf-8")) as {
    dependencies: Record<string, string>;
  };
  const parts = written().split("-".repeat(72));
  for (const name of Object.keys(dependencies).filter((name) => name !== "vite")) {
    const part = parts.find((one) => one.trim().startsWith(`${name} `)) ?? "";
    expect(part, name).toContain("Copyright");
    expect(part, name).toMatch(/Permission (is hereby granted|to use)/);
  }
  expect(parts.some((one) => one.includes("The ggml authors"))).toBe(true);
  expect(parts.some((one) => one.trim().startsWith("@preact/signals-core "))).toBe(true);
  expect(parts.some((one) => one.trim().startsWith("vite "))).toBe(false);
});
