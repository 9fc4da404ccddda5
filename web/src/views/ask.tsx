import type { VNode } from "preact";
import { useEffect, useRef } from "preact/hooks";

import { asked, askAgain, conversation, draft, edit, editing, send, startFresh, stop } from "../conversation";
import { ActionButton, FinishedAnswer, LiveAnswer, Reader } from "../parts/answer";
import { Composer } from "../parts/composer";
import { Icon } from "../parts/icons";
import { RedFlagNotice } from "../parts/notices";
import { focusHeading } from "../route";
import { place } from "../state";
import type { Exchange } from "../storage/database";
import { text as t } from "../text";

/** Pixels between the frame and a question that is brought to the top. */
const ROOM_ABOVE = 14;

export function AskView(): VNode {
  const { exchanges } = conversation.value;
  return (
    <>
      <Scroller empty={exchanges.length === 0} />
      <Composer
        value={draft.value}
        label={t.ask.label}
        action={t.ask.send}
        busy={asked.value !== null}
        focus={editing.value}
        onChange={(value) => (draft.value = value)}
        onSend={() => void send(draft.value)}
        onStop={stop}
      />
    </>
  );
}

/**
 * Brings a new question to the top, so that a notice and the answer's beginning are in sight; from
 * then on the reader scrolls. Who has scrolled to the end stays there while it grows.
 */
function Scroller({ empty }: { empty: boolean }): VNode {
  const area = useRef<HTMLDivElement>(null);
  const following = useRef(false);
  const running = asked.value;
  const grown = running?.live.value;
  const { id, exchanges } = conversation.value;
  useEffect(() => {
    following.current = false;
    const last = area.current?.querySelector<HTMLElement>(".exchange:last-of-type");
    if (last && area.current) area.current.scrollTop = last.offsetTop - ROOM_ABOVE;
  }, [id, exchanges.length, running !== null && running]);
  useEffect(() => {
    if (following.current && area.current) area.current.scrollTop = area.current.scrollHeight;
  }, [grown]);
  const onScroll = (): void => {
    const at = area.current;
    if (at && running) following.current = at.scrollHeight - at.scrollTop - at.clientHeight < 8;
  };
  return (
    <div class="scroll" ref={area} onScroll={onScroll} tabIndex={0} role="region" aria-label={t.ask.title}>
      <div class="column">
        <h1 class={empty ? "hero" : "unseen"} tabIndex={-1}>
          {empty ? t.ask.empty : t.ask.title}
        </h1>
        {empty ? <Empty /> : <Exchanges />}
      </div>
    </div>
  );
}

function Empty(): VNode {
  return (
    <div class="empty">
      <p class="faint">{t.ask.hint[place.value]}</p>
      <ul class="examples" aria-label={t.ask.examplesLabel}>
        {t.ask.examples.map((example) => (
          <li key={example}>
            <button type="button" class="card" onClick={() => void send(example)}>
              {example}
            </button>
          </li>
        ))}
      </ul>
    </div>
  );
}

function Exchanges(): VNode {
  const { exchanges } = conversation.value;
  return (
    <>
      {exchanges.map((exchange, index) => (
        <One key={exchange.askedAt} exchange={exchange} index={index} last={index === exchanges.length - 1} />
      ))}
    </>
  );
}

function One({ exchange, index, last }: { exchange: Exchange; index: number; last: boolean }): VNode {
  const running = last ? asked.value : null;
  const { answer, question } = exchange;
  return (
    <section class={`exchange ${editing.value === index ? "edited" : ""} ${last && index > 0 ? "last" : ""}`}>
      <div class="question">
        <h2 class="unseen">{t.answer.yours}</h2>
        <p>{question}</p>
        {!running && (
          <button type="button" class="quiet square" aria-label={t.answer.edit} onClick={() => edit(index)}>
            <Icon name="edit" />
          </button>
        )}
      </div>
      <RedFlagNotice question={question} />
      {running ? (
        <LiveAnswer asked={running} label={t.answer.model} />
      ) : answer ? (
        <FinishedAnswer
          answer={answer}
          label={t.answer.model}
          actions={last && <Again failed={answer.finish === "failed"} />}
        />
      ) : (
        last && <ActionButton icon="again" label={t.answer.retry} onClick={() => void askAgain()} />
      )}
      {last && answer && !running && (
        <div class="after">
          <ActionButton icon="plus" label={t.ask.fresh} onClick={() => (startFresh(), focusHeading())} />
        </div>
      )}
      {last && <Reader asked={running} answer={answer} />}
    </section>
  );
}

function Again({ failed }: { failed: boolean }): VNode {
  const label = failed ? t.answer.retry : t.answer.again;
  return <ActionButton icon="again" label={label} onClick={() => void askAgain()} />;
}
