/** What stands beside answers whatever the model says. */

import { useMemo, useState } from "preact/hooks";
import type { VNode } from "preact";

import { redFlags, whomToCall } from "../care/red-flags";
import { focusHeading } from "../route";
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
  const flags = useMemo(() => redFlags(question), [question]);
  if (!flags.length || closed) return null;
  return (
    <div class="flag" role="alert" aria-label={t.redFlag.label}>
      <p class="call">
        <Icon name="alert" />
        {whomToCall(flags)}
      </p>
      <ul>
        {flags.map(({ id, title, advice }) => (
          <li key={id}>
            <strong>{title}.</strong> {advice}
          </li>
        ))}
      </ul>
      <p class="faint">{t.redFlag.always}</p>
      <button type="button" class="quiet square" aria-label={t.redFlag.dismiss} onClick={() => (setClosed(true), focusHeading())}>
        <Icon name="close" />
      </button>
    </div>
  );
}
