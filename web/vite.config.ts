import { defineConfig } from "vite";

import { compressed } from "./plugins/compressed.ts";
import { licenses } from "./plugins/licenses.ts";
import { serviceWorker } from "./plugins/service-worker.ts";

export default defineConfig({
  base: "/",
  plugins: [licenses(), serviceWorker(), compressed()],
  build: {
    outDir: process.env["MEDIMIND_APP_OUT"] ?? "../src/medimind/serving/static",
    emptyOutDir: true,
    assetsInlineLimit: 0,
    modulePreload: { polyfill: false },
    target: "es2022",
    reportCompressedSize: false,
    chunkSizeWarningLimit: 400,
    rolldownOptions: {
      output: {
        // Named apart, so that the service worker leaves the 19 MB build for Safari to those who need it.
        assetFileNames: ({ originalFileNames }) =>
          originalFileNames.some((name) => name.includes("wllama-compat"))
            ? "assets/compat-[name]-[hash][extname]"
            : "assets/[name]-[hash][extname]",
      },
    },
  },
  worker: { format: "es" },
});
