/** One answer, growing or finished. */

import type { ComponentChild, VNode } from "preact";
import { useState } from "preact/hooks";

import type { Asked, Live, Stage } from "../asking";
import { canUseDevice } from "../connection";
import { go } from "../route";
import { place } from "../state";
import type { Answer } from "../storage/database";
import { text as t } from "../text";
import { Announcer } from "./announcer";
import { AnswerText } from "./answer-text";
import { Icon, type IconName } from "./icons";
import { Thinking } from "./thinking";

export function LiveAnswer({ asked, label }: { asked: Asked; label: string }): VNode {
  const live = asked.live.value;
  return (
    <article class="answer" aria-busy="true" aria-label={label}>
      {live.thinking && (
        <Thinking
          thoughts={live.thinking}
          seconds={live.thinkingSeconds}
          live={live.stage.kind === "thinking"}
          answered={live.stage.kind === "answering"}
        />
      )}
      {live.text ? <AnswerText text={live.text} /> : live.thinking ? null : <p class="stage">{stageText(live.stage)}</p>}
    </article>
  );
}

/**
 * Reads an answer out while it grows, and its end. It stays when the growing answer is replaced by
 * the finished one, and stands outside of it: what is marked busy is not read.
 */
export function Reader({ asked, answer }: { asked: Asked | null; answer: Answer | null }): VNode {
  const live = asked?.live.value;
  if (live) return <Announcer text={live.text} complete={false} note={live.text ? "" : stageText(live.stage)} />;
  const ended = answer && answer.finish !== "failed" && answer.finish !== "cancelled";
  return <Announcer text={answer?.text ?? ""} complete note={ended ? t.answer.finished : ""} />;
}

function stageText(stage: Stage): string {
  switch (stage.kind) {
    case "connecting":
      return t.answer.connecting;
    case "waiting":
      return t.answer.waiting(stage.ahead);
    case "preparing":
      return t.answer.preparing[stage.what];
    case "thinking":
      return t.answer.thinking;
    case "answering":
      return t.answer.started;
  }
}

interface Finished {
  readonly answer: Answer;
  readonly label: string;
  readonly actions?: ComponentChild;
}

export function FinishedAnswer({ answer, label, actions }: Finished): VNode {
  return (
    <article class="answer" aria-label={label}>
      {answer.thinking && (
        <Thinking thoughts={answer.thinking} seconds={answer.thinkingSeconds} live={false} answered={!!answer.text} />
      )}
      {answer.text && <AnswerText text={answer.text} />}
      <Ending answer={answer} />
      <footer class="meta">
        <span>{metaOf(answer)}</span>
        <span class="actions">
          {answer.text && <CopyButton text={answer.text} />}
          {actions}
        </span>
      </footer>
    </article>
  );
}

function metaOf({ place: from, variant, tokens, tokensPerSecond }: Answer): string {
  const source = `${t.place[from]} · ${t.variant[variant]}`;
  return tokens === null ? source : `${source} · ${t.answer.speed(tokens, tokensPerSecond)}`;
}

function Ending({ answer }: { answer: Answer }): VNode | null {
  if (answer.finish === "failed") return <Trouble answer={answer} />;
  const note =
    answer.finish === "cancelled"
      ? t.answer.stopped
      : answer.finish === "length"
        ? t.answer.cut
        : answer.text
          ? ""
          : t.answer.empty;
  return note ? <p class="note">{note}</p> : null;
}

function Trouble({ answer }: { answer: Answer }): VNode {
  const { kind, detail } = answer.trouble ?? { kind: "stopped" as const, detail: "" };
  return (
    <div class="trouble" role="alert">
      <p>{t.trouble[kind]}</p>
      {detail && kind !== "unreachable" && <p class="faint">{detail}</p>}
      {canUseDevice() && (
        <button type="button" class="soft" onClick={() => (place.value = "device")}>
          {t.trouble.useDevice}
        </button>
      )}
      {kind === "not-installed" && (
        <button type="button" class="soft" onClick={() => go("device")}>
          {t.trouble.openModels}
        </button>
      )}
    </div>
  );
}

export function ActionButton(props: { icon: IconName; label: string; onClick: () => void }): VNode {
  return (
    <button type="button" class="quiet" onClick={props.onClick}>
      <Icon name={props.icon} />
      {props.label}
    </button>
  );
}

function CopyButton({ text }: { text: string }): VNode {
  const [copied, setCopied] = useState(false);
  const copy = (): void => {
    void navigator.clipboard.writeText(text).then(() => {
      setCopied(true);
      setTimeout(() => setCopied(false), 2_000);
    });
  };
  const label = copied ? t.answer.copied : t.answer.copy;
  return <ActionButton icon={copied ? "check" : "copy"} label={label} onClick={copy} />;
}

export type { Live };
