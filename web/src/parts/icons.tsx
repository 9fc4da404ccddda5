import type { VNode } from "preact";

const PATHS = {
  ask: "M4 5.5h16v11H9.5L5 20v-3.5H4z",
  compare: "M4 5h6v14H4zM14 5h6v14h-6z",
  history: "M12 7v5l3.5 2M4.5 12a7.5 7.5 0 1 0 2.2-5.3L4.5 9M4.5 4.5V9H9",
  device: "M7 3h10v18H7zM11 18h2",
  about: "M12 11v5.5M12 7.6v.2M12 3a9 9 0 1 0 0 18 9 9 0 0 0 0-18",
  forecast: "M4 4v16h16M7 15l4-5 3 3 5-7",
  send: "M5 12h13M12 5.5l6.5 6.5-6.5 6.5",
  stop: "M7 7h10v10H7z",
  copy: "M9 9h10v11H9zM5 15V4h10",
  again: "M19.5 12a7.5 7.5 0 1 1-2.2-5.3l2.2 2.3M19.5 4.5V9H15",
  edit: "M5 19h3.5L19 8.5 15.5 5 5 15.5z",
  plus: "M12 5v14M5 12h14",
  trash: "M5 7h14M9.5 7V4.5h5V7M7 7l1 13h8l1-13",
  chevron: "M6 9.5l6 6 6-6",
  close: "M6 6l12 12M18 6L6 18",
  alert: "M12 4l9 16H3zM12 10v4.5M12 17.2v.2",
  check: "M5 12.5l4.5 4.5L19 7.5",
  download: "M12 4v11M7 10.5l5 5 5-5M5 20h14",
  upload: "M12 16V5M7 9.5L12 4.500l5 5M5 20h14",
  print: "M7 9V4h10v5M7 17H4.500V9h15v8H17M7 14h10v6H7z",
  pause: "M9 6v12M15 6v12",
  shield: "M12 3l7.5 3v5.5c0 4.500-3 7.500-7.500 9.500-4.500-2-7.500-5-7.500-9.500V6z",
  server: "M4 5h16v6H4zM4 13h16v6H4zM7.500 8v.2M7.500 16v.2",
} as const;

export type IconName = keyof typeof PATHS;

/** A drawing beside a text; hidden from screen readers, which read the text. */
export function Icon({ name }: { name: IconName }): VNode {
  return (
    <svg class="icon" viewBox="0 0 24 24" aria-hidden="true" focusable="false">
      <path d={PATHS[name]} />
    </svg>
  );
}
