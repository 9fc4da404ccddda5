/** One of a few: radio buttons that look like cards. */

import type { VNode } from "preact";

interface Option<T extends string> {
  readonly value: T;
  readonly title: string;
  readonly hint?: string;
  readonly disabled?: boolean;
}

interface Props<T extends string> {
  readonly legend: string;
  readonly name: string;
  readonly value: T;
  readonly options: readonly Option<T>[];
  readonly compact?: boolean;
  readonly onChange: (value: T) => void;
}

export function Choice<T extends string>({ legend, name, value, options, compact = false, onChange }: Props<T>): VNode {
  return (
    <fieldset class={compact ? "choice compact" : "choice"}>
      <legend>{legend}</legend>
      {options.map((option) => (
        <label key={option.value} class="option">
          <input
            type="radio"
            name={name}
            value={option.value}
            checked={value === option.value}
            disabled={option.disabled ?? false}
            onChange={() => onChange(option.value)}
          />
          <span>
            <span class="title">{option.title}</span>
            {option.hint && <span class="faint">{option.hint}</span>}
          </span>
        </label>
      ))}
    </fieldset>
  );
}
