/** Where a patient's records come in: a file, pasted text, or the example. */

import type { VNode } from "preact";

import { Icon } from "../parts/icons";
import { about, reachable } from "../state";
import { text as t } from "../text";
import { cancel, forecast, forecastExample, pasted, running, trouble } from "./session";

export function RecordsForm(): VNode {
  const busy = running.value !== null;
  const closed = busy || reachable.value === false || about.value?.forecast === false;
  const take = (file: File | undefined): void => {
    if (file) void forecast(file.name, () => file.text());
  };
  const drop = (event: DragEvent): void => {
    event.preventDefault();
    if (!closed) take(event.dataTransfer?.files[0]);
  };
  return (
    <div class="records" onDragOver={(event) => event.preventDefault()} onDrop={drop}>
      <p>{t.forecast.intro}</p>
      <label class={`pick ${closed ? "off" : ""}`}>
        <input
          type="file"
          accept=".csv,.json,.ndjson,text/csv,application/json,application/fhir+json"
          disabled={closed}
          onChange={(event) => {
            take(event.currentTarget.files?.[0]);
            event.currentTarget.value = "";
          }}
        />
        <Icon name="upload" />
        <span class="title">{t.forecast.choose}</span>
        <span class="faint">{t.forecast.kinds}</span>
      </label>
      <form
        onSubmit={(event) => {
          event.preventDefault();
          void forecast(t.forecast.pastedName, async () => pasted.value);
        }}
      >
        <label for="records">{t.forecast.paste}</label>
        <textarea
          id="records"
          rows={5}
          spellcheck={false}
          autocomplete="off"
          value={pasted.value}
          placeholder={t.forecast.sample}
          onInput={(event) => (pasted.value = event.currentTarget.value)}
        />
        <div class="row">
          <button class="solid" disabled={closed || !pasted.value.trim()}>
            {t.forecast.run}
          </button>
          <button type="button" class="soft" disabled={closed} onClick={() => void forecastExample(t.forecast.exampleName)}>
            {t.forecast.example}
          </button>
        </div>
      </form>
      <div role="status" class="stage">
        {busy && t.forecast.running}
      </div>
      {busy && (
        <button type="button" class="quiet" onClick={cancel}>
          {t.ask.stop}
        </button>
      )}
      <Failure />
      <p class="faint">{t.forecast.privacy}</p>
    </div>
  );
}

function Failure(): VNode | null {
  const failed = trouble.value;
  if (!failed) return null;
  const { kind, detail } = failed;
  const told = { ...t.trouble, ...t.forecast.trouble }[kind];
  return (
    <div class="trouble" role="alert">
      <p>{told}</p>
      {detail && kind !== "unreachable" && <p class="faint">{detail}</p>}
    </div>
  );
}
