/** What stands beside answers whatever the model says. */

import { useState } from "preact/hooks";
import type { VNode } from "preact";

import { redFlags } from "../care/red-flags";
import { text as t } from "../text";
import { Icon } from "./icons";

export function DecisionSupport(): VNode {
  return (
    <footer class="support">
      <Icon name="shield" />
      {t.notice}
    </footer>
  );
}

/** The emergencies that a question speaks of, and what to do before reading on. */
export function RedFlagNotice({ question }: { question: string }): VNode | null {
  const [closed, setClosed] = useState(false);
  const flags = redFlags(question);
  if (!flags.length || closed) return null;
  return (
    <div class="flag" role="alert" aria-label={t.redFlag.label}>
      <Icon name="alert" />
      <div>
        {flags.map(({ id, title, advice }) => (
          <p key={id}>
            <strong>{title}.</strong> {advice}
          </p>
        ))}
        {[...new Set(flags.map(({ call }) => call))].map((call) => (
          <p key={call} class="call">
            {call}
          </p>
        ))}
        <p class="faint">{t.redFlag.always}</p>
      </div>
      <button type="button" class="quiet square" aria-label={t.redFlag.dismiss} onClick={() => setClosed(true)}>
        <Icon name="close" />
      </button>
    </div>
  );
}
