import { signal } from "@preact/signals";
import type { ComponentChild, VNode } from "preact";

import { connectWith } from "../connection";
import { ReportButton } from "../parts/report";
import { about, reachable } from "../state";
import { size, text as t } from "../text";

export function AboutView(): VNode {
  const known = about.value;
  return (
    <div class="scroll" tabIndex={0} role="region" aria-label={t.about.title}>
      <div class="column">
        <h1 tabIndex={-1}>{t.about.title}</h1>
        {known ? <Facts /> : null}
        {known && <Evaluation />}
        {(!known || reachable.value === false) && <Connect />}
        <h2>{t.about.limits}</h2>
        <p>{t.about.limitsText}</p>
        <h2>{t.about.privacy}</h2>
        <p>{t.about.privacyText}</p>
        {known && <p class="faint">{t.about.version(known.version)}</p>}
        <p>
          <a class="alone" href="/licenses.txt">{t.about.parts}</a>
        </p>
      </div>
    </div>
  );
}

function Facts(): VNode | null {
  const known = about.value;
  if (!known) return null;
  const { model, adapter } = known;
  const count = (value: number | null): string => (value === null ? t.about.unknown : value.toLocaleString("en"));
  return (
    <dl class="facts">
      <Fact name={t.about.model} value={model.name} />
      <Fact name={t.about.base} value={model.base_model} />
      <Fact name={t.about.adapter} value={adapter ? `${adapter.name}, ${size(adapter.bytes)}` : t.about.noAdapter} />
      <Fact name={t.about.quantization} value={model.quantization?.toUpperCase() ?? null} />
      <Fact name={t.about.size} value={size(model.bytes)} />
      <Fact name={t.about.parameters} value={count(model.parameters)} />
      <Fact name={t.about.context} value={model.context === null ? null : t.about.tokens(count(model.context))} />
      <Fact name={t.about.license} value={model.license} />
      <Fact
        name={t.about.sources}
        value={
          model.sources?.length
            ? model.sources.map((source) => (
                <span class="source" key={source}>
                  {source}
                </span>
              ))
            : null
        }
      />
    </dl>
  );
}

function Fact({ name, value }: { name: string; value: ComponentChild }): VNode {
  return (
    <div>
      <dt>{name}</dt>
      <dd>{value ?? t.about.unknown}</dd>
    </div>
  );
}

function Evaluation(): VNode {
  return (
    <>
      <h2>{t.about.evaluation}</h2>
      {about.value?.report ? (
        <>
          <p>{t.about.evaluationIntro}</p>
          {reachable.value === false ? <p class="note">{t.about.reportGone}</p> : <ReportButton label={t.about.openReport} />}
        </>
      ) : (
        <p>{t.about.noReport}</p>
      )}
    </>
  );
}

const link = signal("");

function Connect(): VNode {
  const submit = (event: Event): void => {
    event.preventDefault();
    void connectWith(link.value).then((done) => {
      if (done) link.value = "";
    });
  };
  return (
    <form onSubmit={submit}>
      <h2>{t.about.connect}</h2>
      <p>{t.about.connectText}</p>
      <label for="link">{t.about.connectLabel}</label>
      <div class="row">
        <input
          id="link"
          type="text"
          autocomplete="off"
          autocapitalize="off"
          spellcheck={false}
          value={link.value}
          onInput={(event) => (link.value = event.currentTarget.value)}
        />
        <button class="soft">{t.about.connectButton}</button>
      </div>
    </form>
  );
}
