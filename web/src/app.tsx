import type { VNode } from "preact";
import { useEffect, useRef } from "preact/hooks";

import { fetchMarkdown } from "./parts/answer-text";
import { Icon } from "./parts/icons";
import { lazy, type LazyView } from "./parts/lazy";
import { DecisionSupport } from "./parts/notices";
import { go, path, route, ROUTES, type Route } from "./route";
import { about, answering, place, reachable } from "./state";
import { text as t } from "./text";
import { AskView } from "./views/ask";

const LATER: Readonly<Record<Exclude<Route, "ask">, LazyView>> = {
  compare: lazy(async () => (await import("./views/compare")).CompareView),
  history: lazy(async () => (await import("./views/history")).HistoryView),
  forecast: lazy(async () => (await import("./views/forecast")).ForecastView),
  device: lazy(async () => (await import("./views/device")).DeviceView),
  about: lazy(async () => (await import("./views/about")).AboutView),
};

/** Fetches the rest, one after the other, so that it is here when the network is not. */
export async function fetchRest(): Promise<void> {
  await fetchMarkdown();
  for (const [name, view] of Object.entries(LATER)) if (name !== "forecast" || about.value?.forecast) await view.fetch();
}

export function App(): VNode {
  const later = route.value === "ask" ? null : LATER[route.value];
  const View = later?.View ?? AskView;
  const ready = later?.ready.value ?? true;
  const main = useRef<HTMLElement>(null);
  const shown = useRef<Route>(route.value);
  useEffect(() => {
    document.title = route.value === "ask" ? t.name : `${t.nav[route.value]} · ${t.name}`;
    if (!ready) return;
    // A new view is read from its heading on.
    if (shown.current !== route.value) main.current?.querySelector("h1")?.focus();
    shown.current = route.value;
  }, [route.value, ready]);
  return (
    <div class="shell">
      <a class="skip" href="#main" onClick={(event) => (event.preventDefault(), main.current?.focus())}>
        {t.skip}
      </a>
      <header class="top">
        <span class="brand">
          <img src="/icon.svg" alt="" width="28" height="28" />
          {t.name}
        </span>
        <SourceChip />
      </header>
      <main id="main" ref={main} tabIndex={-1}>
        <View key={route.value} />
      </main>
      <DecisionSupport />
      <nav class="tabs" aria-label={t.nav.label}>
        {ROUTES.filter((name) => name !== "forecast" || about.value?.forecast).map((name) => (
          <Tab key={name} name={name} />
        ))}
      </nav>
    </div>
  );
}

function Tab({ name }: { name: Route }): VNode {
  const open = (event: MouseEvent): void => {
    if (event.ctrlKey || event.metaKey || event.shiftKey) return;
    event.preventDefault();
    go(name);
  };
  return (
    <a href={path(name)} aria-current={route.value === name ? "page" : undefined} onClick={open}>
      <Icon name={name} />
      {t.nav[name]}
    </a>
  );
}

/** Who answers, and whether it can be reached; leads to where that is chosen. */
function SourceChip(): VNode {
  const [from, which] = [t.place[place.value], t.variant[answering.value]];
  const away = place.value === "server" && reachable.value === false;
  return (
    <button
      type="button"
      class={`chip ${away ? "away" : ""}`}
      aria-label={`${t.status.choose(from, which)}${away ? `. ${t.status.offline}` : ""}`}
      onClick={() => go("device")}
    >
      <Icon name={place.value} />
      <span>
        {from} · {which}
      </span>
      <span class="dot" aria-hidden="true" />
    </button>
  );
}
