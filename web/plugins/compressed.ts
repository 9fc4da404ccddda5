import { readdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { brotliCompressSync, constants, gzipSync } from "node:zlib";
import type { Plugin, ResolvedConfig } from "vite";

const TEXT = /\.(js|css|html|svg|json|webmanifest|txt)$/;

/** Puts `.br` and `.gz` beside texts, and `.gz` beside WebAssembly, for servers that pick them up. */
export function compressed(): Plugin {
  let config: ResolvedConfig;
  return {
    name: "medimind-compressed",
    apply: "build",
    configResolved(resolved) {
      config = resolved;
    },
    closeBundle: {
      order: "post",
      handler() {
        const root = join(config.root, config.build.outDir);
        for (const entry of readdirSync(root, { recursive: true, withFileTypes: true })) {
          if (!entry.isFile()) continue;
          const path = join(entry.parentPath, entry.name);
          if (TEXT.test(path)) {
            const bytes = readFileSync(path);
            writeFileSync(`${path}.gz`, gzipSync(bytes, { level: 9 }));
            const params = { [constants.BROTLI_PARAM_QUALITY]: 10 };
            writeFileSync(`${path}.br`, brotliCompressSync(bytes, { params }));
          } else if (path.endsWith(".wasm")) {
            writeFileSync(`${path}.gz`, gzipSync(readFileSync(path), { level: 6 }));
          }
        }
      },
    },
  };
}
