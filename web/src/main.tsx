import { render } from "preact";

import { App } from "./app";
import { refreshAbout, takeToken, watchConnection } from "./connection";
import { refreshFiles, restore } from "./state";
import "./styles.css";

async function start(): Promise<void> {
  await restore();
  await takeToken();
  render(<App />, document.getElementById("app")!);
  await Promise.all([refreshAbout(), refreshFiles()]);
  watchConnection();
}

if (import.meta.env.PROD && "serviceWorker" in navigator) {
  addEventListener("load", () => void navigator.serviceWorker.register("/sw.js"));
}
void start();
