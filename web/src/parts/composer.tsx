/** The field a question is written in. */

import type { VNode } from "preact";
import { useEffect, useRef } from "preact/hooks";

import { LONGEST } from "../care/red-flags";
import { Icon } from "./icons";
import { text as t } from "../text";

interface Props {
  readonly value: string;
  readonly label: string;
  readonly action: string;
  readonly busy: boolean;
  readonly focus?: unknown;
  readonly disabled?: boolean;
  readonly onChange: (value: string) => void;
  readonly onSend: () => void;
  readonly onStop: () => void;
}

export function Composer(props: Props): VNode {
  const { value, label, action, busy, focus, disabled = false, onChange, onSend, onStop } = props;
  const field = useRef<HTMLTextAreaElement>(null);
  useEffect(() => {
    const area = field.current;
    if (!area) return;
    area.style.height = "auto";
    area.style.height = `${Math.min(area.scrollHeight, innerHeight * 0.35)}px`;
  }, [value]);
  useEffect(() => {
    if (focus !== undefined && focus !== null) field.current?.focus();
  }, [focus]);
  const submit = (event: Event): void => {
    event.preventDefault();
    if (busy) onStop();
    else onSend();
  };
  const onKeyDown = (event: KeyboardEvent): void => {
    // On phones the Enter key of the keyboard starts a new line.
    const fine = matchMedia("(pointer: fine)").matches;
    if (event.key === "Enter" && !event.shiftKey && !event.isComposing && fine && !busy) submit(event);
  };
  return (
    <form class="composer" onSubmit={submit}>
      <label class="unseen" for="question">
        {label}
      </label>
      <textarea
        id="question"
        ref={field}
        rows={1}
        dir="auto"
        value={value}
        maxLength={LONGEST}
        placeholder={t.ask.placeholder}
        title={t.ask.enter}
        onInput={(event) => onChange(event.currentTarget.value)}
        onKeyDown={onKeyDown}
      />
      <button
        type="submit"
        class="send square"
        aria-label={busy ? t.ask.stop : action}
        disabled={!busy && (disabled || !value.trim())}
      >
        <Icon name={busy ? "stop" : "send"} />
      </button>
    </form>
  );
}
