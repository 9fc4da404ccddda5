import { signal } from "@preact/signals";
import type { VNode } from "preact";

import { ask, type Asked } from "../asking";
import type { Variant } from "../engines/engine";
import { FinishedAnswer, LiveAnswer, Reader } from "../parts/answer";
import { fetchMarkdown } from "../parts/answer-text";
import { Composer } from "../parts/composer";
import { RedFlagNotice } from "../parts/notices";
import { ReportButton } from "../parts/report";
import { about, engine, hasTuned, longest, modelName, place } from "../state";
import type { Answer } from "../storage/database";
import { text as t } from "../text";

const draft = signal("");
const question = signal("");
const running = signal<Partial<Record<Variant, Asked>>>({});
const answers = signal<Partial<Record<Variant, Answer>>>({});
const busy = signal(false);

const SIDES: readonly { variant: Variant; title: string }[] = [
  { variant: "base", title: t.compare.before },
  { variant: "tuned", title: t.compare.after },
];

/** One after the other: both get the whole machine, and the same decoding. */
async function compare(asked: string): Promise<void> {
  const content = asked.trim();
  if (!content || busy.value) return;
  busy.value = true;
  question.value = content;
  draft.value = "";
  answers.value = {};
  for (const { variant } of SIDES) {
    const settings = { maxTokens: longest.value, temperature: 0, seed: 0 };
    const side = ask(engine(), { variant, messages: [{ role: "user", content }], ...settings }, modelName.value);
    running.value = { [variant]: side };
    const [answer] = await Promise.all([side.answer, fetchMarkdown()]);
    answers.value = { ...answers.value, [variant]: answer };
    if (answer.finish === "cancelled" || answer.finish === "failed") break;
  }
  running.value = {};
  busy.value = false;
}

function stop(): void {
  for (const side of Object.values(running.value)) side.stop();
}

export function CompareView(): VNode {
  return (
    <>
      <div class="scroll" tabIndex={0} role="region" aria-label={t.compare.title}>
        <div class="column wide">
          <h1 tabIndex={-1}>{t.compare.title}</h1>
          <p class="faint">{t.compare.intro}</p>
          {!hasTuned.value && (
            <p class="note">{place.value === "device" ? t.compare.missingDevice : t.compare.missing}</p>
          )}
          {!question.value && hasTuned.value && <Examples />}
          {question.value && (
            <div class="question">
              <p>{question.value}</p>
            </div>
          )}
          <RedFlagNotice key={question.value} question={question.value} />
          {question.value && (
            <div class="sides">
              {SIDES.map((side) => (
                <Side key={side.variant} {...side} />
              ))}
            </div>
          )}
          {answers.value.tuned && (
            <p class="note">
              {t.compare.note} {about.value?.report && <ReportButton label={t.compare.report} />}
            </p>
          )}
        </div>
      </div>
      <Composer
        value={draft.value}
        label={t.compare.label}
        action={t.compare.run}
        busy={busy.value}
        disabled={!hasTuned.value}
        onChange={(value) => (draft.value = value)}
        onSend={() => void compare(draft.value)}
        onStop={stop}
      />
    </>
  );
}

function Examples(): VNode {
  return (
    <ul class="examples" aria-label={t.ask.examplesLabel}>
      {t.ask.examples.map((example) => (
        <li key={example}>
          <button type="button" class="card" onClick={() => void compare(example)}>
            {example}
          </button>
        </li>
      ))}
    </ul>
  );
}

function Side({ variant, title }: { variant: Variant; title: string }): VNode {
  const [live, answer] = [running.value[variant], answers.value[variant]];
  return (
    <section class={`side ${variant}`} aria-label={title}>
      <h2>{title}</h2>
      {live ? (
        <LiveAnswer asked={live} label={title} />
      ) : answer ? (
        <FinishedAnswer answer={answer} label={title} />
      ) : (
        <p class="stage">…</p>
      )}
      <Reader key={question.value} asked={live ?? null} answer={answer ?? null} />
    </section>
  );
}
