import { signal } from "@preact/signals";
import type { VNode } from "preact";
import { useEffect, useRef } from "preact/hooks";

import { forget, forgetAll, openConversation } from "../conversation";
import { Icon } from "../parts/icons";
import { focusHeading, go } from "../route";
import { listConversations, type Conversation } from "../storage/database";
import { exported, search } from "../storage/search";
import { text as t } from "../text";

const all = signal<readonly Conversation[]>([]);
const query = signal("");
const done = signal("");

async function refresh(): Promise<void> {
  all.value = await listConversations();
}

export function HistoryView(): VNode {
  const dialog = useRef<HTMLDialogElement>(null);
  useEffect(() => {
    done.value = "";
    void refresh();
  }, []);
  const found = search(all.value, query.value);
  const removeAll = async (): Promise<void> => {
    await forgetAll();
    await refresh();
    done.value = t.history.removed;
    focusHeading();
  };
  return (
    <div class="scroll" tabIndex={0} role="region" aria-label={t.history.title}>
      <div class="column">
        <h1 tabIndex={-1}>{t.history.title}</h1>
        <label class="unseen" for="search">
          {t.history.search}
        </label>
        <input
          id="search"
          type="search"
          placeholder={t.history.search}
          value={query.value}
          onInput={(event) => (query.value = event.currentTarget.value)}
        />
        <p class="faint" role="status">
          {done.value} {all.value.length === 0 ? t.history.empty : found.length ? t.history.count(found.length) : t.history.none}
        </p>
        <ul class="entries">
          {found.map((conversation) => (
            <Entry key={conversation.id} conversation={conversation} />
          ))}
        </ul>
        {all.value.length > 0 && (
          <div class="row">
            <button type="button" class="soft" onClick={() => save(all.value)}>
              <Icon name="download" />
              {t.history.export}
            </button>
            <button type="button" class="soft danger" onClick={() => dialog.current?.showModal()}>
              <Icon name="trash" />
              {t.history.removeAll}
            </button>
          </div>
        )}
        <dialog ref={dialog} aria-labelledby="sure">
          <form method="dialog">
            <p id="sure">{t.history.sure}</p>
            <div class="row">
              <button class="soft" autofocus>
                {t.history.sureNo}
              </button>
              <button class="soft danger" onClick={() => void removeAll()}>
                {t.history.sureYes}
              </button>
            </div>
          </form>
        </dialog>
      </div>
    </div>
  );
}

function Entry({ conversation }: { conversation: Conversation }): VNode {
  const first = conversation.exchanges[0]?.question ?? "";
  const open = (): void => {
    openConversation(conversation);
    go("ask");
  };
  return (
    <li>
      <button type="button" class="card entry" onClick={open}>
        <span class="title">{first}</span>
        <span class="faint">
          {new Date(conversation.updatedAt).toLocaleString(undefined, { dateStyle: "medium", timeStyle: "short" })} ·{" "}
          {t.history.questions(conversation.exchanges.length)}
        </span>
      </button>
      <button
        type="button"
        class="quiet square"
        aria-label={t.history.remove(first)}
        onClick={() => void forget(conversation.id).then(refresh).then(focusHeading)}
      >
        <Icon name="trash" />
      </button>
    </li>
  );
}

function save(conversations: readonly Conversation[]): void {
  const now = new Date();
  const url = URL.createObjectURL(new Blob([exported(conversations, now)], { type: "application/json" }));
  const link = document.createElement("a");
  link.href = url;
  link.download = `medimind-conversations-${now.toISOString().slice(0, 10)}.json`;
  link.click();
  URL.revokeObjectURL(url);
}
