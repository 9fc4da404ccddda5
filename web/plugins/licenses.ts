import { readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import type { Plugin, ResolvedConfig } from "vite";

const BUILDS_ONLY = "vite";

/** Compiled into wllama's WebAssembly, and in no package of its own. */
const LLAMA_CPP = `llama.cpp and ggml, within @wllama/wllama and @wllama/wllama-compat (MIT)

Copyright (c) 2023-2026 The ggml authors

The terms are those of the MIT license, as printed for @wllama/wllama.`;

interface Package {
  name: string;
  version: string;
  license: string;
  dependencies?: Record<string, string>;
}

/** Writes `licenses.txt`: whose work the app holds, and on what terms it may be passed on. */
export function licenses(): Plugin {
  let config: ResolvedConfig;
  return {
    name: "medimind-licenses",
    apply: "build",
    configResolved(resolved) {
      config = resolved;
    },
    generateBundle() {
      const modules = join(config.root, "node_modules");
      const texts = bundled(config.root).map((found) => {
        const text = licenseText(modules, found.name);
        if (text === null) this.error(`${found.name} has no license file`);
        return `${found.name} ${found.version} (${found.license})\n\n${text}`;
      });
      const source = [...texts, LLAMA_CPP].join(`\n\n${"-".repeat(72)}\n\n`);
      this.emitFile({ type: "asset", fileName: "licenses.txt", source: `${source}\n` });
    },
  };
}

/** The packages that the app is made of, with those that they need. */
function bundled(root: string): Package[] {
  const found = new Map<string, Package>();
  const add = (names: Record<string, string> = {}): void => {
    for (const name of Object.keys(names)) {
      if (name === BUILDS_ONLY || found.has(name)) continue;
      const one = manifest(join(root, "node_modules", name));
      found.set(name, one);
      add(one.dependencies);
    }
  };
  add(manifest(root).dependencies);
  return [...found.values()].sort((a, b) => (a.name < b.name ? -1 : 1));
}

function manifest(folder: string): Package {
  return JSON.parse(readFileSync(join(folder, "package.json"), "utf-8")) as Package;
}

/** Its license file; of wllama's second build, which has none, that of the first. */
function licenseText(modules: string, name: string): string | null {
  const folder = join(modules, name);
  const file = readdirSync(folder).find((one) => /^licen[cs]e/i.test(one));
  if (file) return readFileSync(join(folder, file), "utf-8").trim();
  const first = name.replace(/-compat$/, "");
  return first === name ? null : licenseText(modules, first);
}
