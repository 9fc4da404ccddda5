import { render } from "preact";

import { App, fetchRest } from "./app";
import { refreshAbout, takeToken, watchConnection } from "./connection";
import { refreshFiles, restore } from "./state";
import "./styles.css";

async function start(): Promise<void> {
  await restore();
  await takeToken();
  render(<App />, document.getElementById("app")!);
  await Promise.all([refreshAbout(), refreshFiles()]);
  watchConnection();
  onIdle(() => void fetchRest());
}

/** Once the first view has come to rest. Safari has no idle callbacks. */
function onIdle(work: () => void): void {
  if ("requestIdleCallback" in globalThis) requestIdleCallback(work, { timeout: 4000 });
  else setTimeout(work, 1000);
}

if (import.meta.env.PROD && "serviceWorker" in navigator) {
  addEventListener("load", () => void navigator.serviceWorker.register("/sw.js"));
}
void start();
