import type { VNode } from "preact";
import { useEffect, useRef } from "preact/hooks";

import { Icon } from "./parts/icons";
import { DecisionSupport } from "./parts/notices";
import { go, path, route, ROUTES, type Route } from "./route";
import { answering, place, reachable } from "./state";
import { text as t } from "./text";
import { AboutView } from "./views/about";
import { AskView } from "./views/ask";
import { CompareView } from "./views/compare";
import { DeviceView } from "./views/device";
import { HistoryView } from "./views/history";

const VIEWS: Readonly<Record<Route, () => VNode>> = {
  ask: AskView,
  compare: CompareView,
  history: HistoryView,
  device: DeviceView,
  about: AboutView,
};

export function App(): VNode {
  const View = VIEWS[route.value];
  const main = useRef<HTMLElement>(null);
  const shown = useRef<Route>(route.value);
  useEffect(() => {
    document.title = route.value === "ask" ? t.name : `${t.nav[route.value]} · ${t.name}`;
    // A new view is read from its heading on.
    if (shown.current !== route.value) main.current?.querySelector("h1")?.focus();
    shown.current = route.value;
  }, [route.value]);
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
        {ROUTES.map((name) => (
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
