/** Views that are fetched when they are first shown, so that the first one opens sooner. */

import { signal, type ReadonlySignal } from "@preact/signals";
import type { VNode } from "preact";
import { useEffect } from "preact/hooks";

import { text as t } from "../text";

export type View = () => VNode | null;

export interface LazyView {
  readonly View: View;
  /** Whether its code is here. */
  readonly ready: ReadonlySignal<boolean>;
  /** Fetches the code ahead of time. */
  readonly fetch: () => Promise<void>;
}

export function lazy(load: () => Promise<View>): LazyView {
  const ready = signal(false);
  const failed = signal(false);
  let loaded: View | null = null;
  let fetching: Promise<void> | null = null;
  const fetch = (): Promise<void> =>
    (fetching ??= load().then(
      (view) => {
        loaded = view;
        ready.value = true;
      },
      () => {
        fetching = null;
        failed.value = true;
      },
    ));
  const View: View = () => {
    useEffect(() => {
      failed.value = false;
      void fetch();
    }, []);
    if (ready.value && loaded) {
      const Loaded = loaded;
      return <Loaded />;
    }
    return failed.value ? <Failed /> : null;
  };
  return { View, ready, fetch };
}

/** A newer version has replaced this one's files, or the server went away before they came. */
function Failed(): VNode {
  return (
    <div class="column">
      <p class="note" role="alert">
        {t.lazy.failed}
      </p>
      <div class="row">
        <button type="button" class="soft" onClick={() => location.reload()}>
          {t.lazy.reload}
        </button>
      </div>
    </div>
  );
}
