/** The conversation on the screen. */

import { batch, signal } from "@preact/signals";

import { ask, type Asked } from "./asking";
import type { ChatMessage } from "./engines/engine";
import { fetchMarkdown } from "./parts/answer-text";
import { answering, engine, longest, modelName } from "./state";
import {
  deleteAllConversations,
  deleteConversation,
  saveConversation,
  type Conversation,
  type Exchange,
} from "./storage/database";

const TEMPERATURE = 0.6;

const fresh = (): Conversation => ({ id: crypto.randomUUID(), updatedAt: Date.now(), exchanges: [] });

export const conversation = signal<Conversation>(fresh());
/** The question that is being answered. */
export const asked = signal<Asked | null>(null);
/** What stands in the question field. */
export const draft = signal("");
/** Index of the question that is being edited: sending replaces it and what follows. */
export const editing = signal<number | null>(null);

/** Sends the draft. */
export async function send(question: string): Promise<void> {
  const text = question.trim();
  if (!text || asked.value) return;
  const kept = conversation.value.exchanges.slice(0, editing.value ?? undefined);
  batch(() => {
    draft.value = "";
    editing.value = null;
  });
  await answer([...kept, { question: text, askedAt: Date.now(), answer: null }], 0);
}

/** Answers the last question anew, with other random numbers. */
export async function askAgain(): Promise<void> {
  const { exchanges } = conversation.value;
  const last = exchanges.at(-1);
  if (!last || asked.value) return;
  const seed = crypto.getRandomValues(new Uint32Array(1))[0]! >>> 1;
  const failed = last.answer?.finish === "failed";
  await answer([...exchanges.slice(0, -1), { ...last, answer: null }], failed ? 0 : seed);
}

export function edit(index: number): void {
  const exchange = conversation.value.exchanges[index];
  if (!exchange || asked.value) return;
  batch(() => {
    draft.value = exchange.question;
    editing.value = index;
  });
}

export function stop(): void {
  asked.value?.stop();
}

/** Leaves this conversation, which stays in the history. */
export function startFresh(): void {
  stop();
  batch(() => {
    conversation.value = fresh();
    editing.value = null;
    draft.value = "";
  });
}

export function openConversation(chosen: Conversation): void {
  stop();
  batch(() => {
    conversation.value = chosen;
    editing.value = null;
  });
}

/** Deleted ones; an answer that is still being written must not bring its conversation back. */
const forgotten = new Set<string>();

export async function forget(id: string): Promise<void> {
  forgotten.add(id);
  if (conversation.value.id === id) startFresh();
  await deleteConversation(id);
}

export async function forgetAll(): Promise<void> {
  forgotten.add(conversation.value.id);
  startFresh();
  await deleteAllConversations();
}

async function answer(exchanges: readonly Exchange[], seed: number): Promise<void> {
  const { id } = conversation.value;
  const running = ask(
    engine(),
    {
      variant: answering.value,
      messages: messagesOf(exchanges),
      maxTokens: longest.value,
      temperature: TEMPERATURE,
      seed,
    },
    modelName.value,
  );
  batch(() => {
    conversation.value = { id, updatedAt: Date.now(), exchanges };
    asked.value = running;
  });
  await saveConversation(conversation.value);
  const [result] = await Promise.all([running.answer, fetchMarkdown()]);
  const done = exchanges.map((exchange, index) =>
    index === exchanges.length - 1 ? { ...exchange, answer: result } : exchange,
  );
  const finished: Conversation = { id, updatedAt: Date.now(), exchanges: done };
  batch(() => {
    if (asked.value === running) asked.value = null;
    if (conversation.value.id === id) conversation.value = finished;
  });
  if (!forgotten.has(id)) await saveConversation(finished);
}

/** Earlier answers without their thoughts; questions that got none are left out. */
export function messagesOf(exchanges: readonly Exchange[]): ChatMessage[] {
  return exchanges.flatMap(({ question, answer }, index): ChatMessage[] => {
    const user: ChatMessage = { role: "user", content: question };
    if (index === exchanges.length - 1) return [user];
    return answer?.text ? [user, { role: "assistant", content: answer.text }] : [];
  });
}
