/** What is kept on this device: conversations, settings, the list of installed files. */

import { type DBSchema, type IDBPDatabase, openDB } from "idb";

import type { Finish, Place, Trouble, Variant } from "../engines/engine";

export interface Answer {
  readonly variant: Variant;
  readonly place: Place;
  readonly model: string;
  readonly thinking: string;
  readonly thinkingSeconds: number | null;
  readonly text: string;
  readonly finish: Finish | "cancelled" | "failed";
  readonly trouble?: { readonly kind: Trouble; readonly detail: string };
  readonly tokens: number | null;
  readonly tokensPerSecond: number | null;
}

export interface Exchange {
  readonly question: string;
  readonly askedAt: number;
  readonly answer: Answer | null;
}

export interface Conversation {
  readonly id: string;
  readonly updatedAt: number;
  readonly exchanges: readonly Exchange[];
}

export interface InstalledFile {
  readonly sha256: string;
  readonly name: string;
  readonly kind: "model" | "adapter";
  readonly bytes: number;
  readonly installedAt: number;
}

interface Schema extends DBSchema {
  conversations: { key: string; value: Conversation; indexes: { updatedAt: number } };
  files: { key: string; value: InstalledFile };
  settings: { key: string; value: unknown };
}

let opened: Promise<IDBPDatabase<Schema>> | null = null;

function database(): Promise<IDBPDatabase<Schema>> {
  opened ??= openDB<Schema>("medimind", 1, {
    upgrade(db) {
      db.createObjectStore("conversations", { keyPath: "id" }).createIndex("updatedAt", "updatedAt");
      db.createObjectStore("files", { keyPath: "sha256" });
      db.createObjectStore("settings");
    },
  });
  return opened;
}

export async function saveConversation(conversation: Conversation): Promise<void> {
  await (await database()).put("conversations", conversation);
}

/** Newest first. */
export async function listConversations(): Promise<Conversation[]> {
  return (await (await database()).getAllFromIndex("conversations", "updatedAt")).reverse();
}

export async function deleteConversation(id: string): Promise<void> {
  await (await database()).delete("conversations", id);
}

export async function deleteAllConversations(): Promise<void> {
  await (await database()).clear("conversations");
}

export async function listFiles(): Promise<InstalledFile[]> {
  return (await database()).getAll("files");
}

export async function recordFile(file: InstalledFile): Promise<void> {
  await (await database()).put("files", file);
}

export async function forgetFile(sha256: string): Promise<void> {
  await (await database()).delete("files", sha256);
}

export async function readSetting<T>(name: string): Promise<T | undefined> {
  return (await (await database()).get("settings", name)) as T | undefined;
}

export async function writeSetting(name: string, value: unknown): Promise<void> {
  await (await database()).put("settings", value, name);
}
