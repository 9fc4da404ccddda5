import { createHash } from "node:crypto";
import { readdirSync, readFileSync, writeFileSync } from "node:fs";
import { join, relative } from "node:path";
import type { Plugin, ResolvedConfig } from "vite";

/**
 * Writes `sw.js`: what the page needs to open without a network, named by its content.
 *
 * The WebAssembly engines (28 MB) are no part of it; the page stores the one that it needs when a
 * model is put on the device.
 */
export function serviceWorker(): Plugin {
  let config: ResolvedConfig;
  return {
    name: "medimind-service-worker",
    apply: "build",
    configResolved(resolved) {
      config = resolved;
    },
    closeBundle: {
      order: "pre",
      handler() {
        const root = join(config.root, config.build.outDir);
        const files = shellFiles(root);
        const hash = createHash("sha256");
        for (const file of ["index.html", ...files]) hash.update(file).update(readFileSync(join(root, file)));
        const source = readFileSync(join(config.root, "src/sw.js"), "utf-8")
          .replace("__VERSION__", hash.digest("hex").slice(0, 12))
          .replace('["__FILES__"]', JSON.stringify(["/", ...files.map((file) => `/${file}`)]));
        writeFileSync(join(root, "sw.js"), source);
      },
    },
  };
}

/** Paths under `root` that belong to the shell, in a stable order. */
export function shellFiles(root: string): string[] {
  const all = readdirSync(root, { recursive: true, withFileTypes: true });
  return all
    .filter((entry) => entry.isFile())
    .map((entry) => relative(root, join(entry.parentPath, entry.name)).replaceAll("\\", "/"))
    .filter((path) => !/\.(wasm|gz|br|map)$|^sw\.js$|^index\.html$|^licenses\.txt$|^\.|compat/.test(path))
    .sort();
}
