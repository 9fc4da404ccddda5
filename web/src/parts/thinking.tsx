/** The model's thoughts: open and live while they are written, folded once it answers. */

import { useEffect, useId, useState } from "preact/hooks";
import type { VNode } from "preact";

import { text as t } from "../text";
import { Icon } from "./icons";

interface Props {
  readonly thoughts: string;
  readonly seconds: number | null;
  readonly live: boolean;
  /** Whether an answer followed. */
  readonly answered: boolean;
}

export function Thinking({ thoughts, seconds, live, answered }: Props): VNode {
  const [open, setOpen] = useState(live);
  const [chosen, setChosen] = useState(false);
  const id = useId();
  useEffect(() => {
    if (!chosen) setOpen(live);
  }, [live, chosen]);
  const label = live
    ? seconds === null
      ? t.answer.thinking
      : t.answer.thinkingFor(seconds)
    : answered
      ? t.answer.thought(seconds ?? 0)
      : t.answer.thoughtCut;
  const toggle = (): void => {
    setChosen(true);
    setOpen(!open);
  };
  return (
    <section class={`thinking ${live ? "live" : ""}`}>
      <button type="button" class="fold" aria-expanded={open} aria-controls={id} onClick={toggle}>
        <span class="dot" aria-hidden="true" />
        {label}
        <Icon name="chevron" />
      </button>
      <div id={id} hidden={!open} class="thoughts">
        {thoughts.trim()}
      </div>
    </section>
  );
}
