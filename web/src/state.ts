/** What the views show and change. */

import { computed, effect, signal } from "@preact/signals";

import type { About, DeviceFile } from "./engines/api";
import { DeviceEngine, type DeviceModel } from "./engines/device";
import type { Engine, Place, Variant } from "./engines/engine";
import { ServerEngine } from "./engines/server";
import { type InstalledFile, readSetting, writeSetting } from "./storage/database";
import { installed, open } from "./storage/files";

export type Theme = "system" | "light" | "dark";

export const token = signal<string | null>(null);
/** What the server said last; kept for when it cannot be reached. */
export const about = signal<About | null>(null);
/** Null until it was tried. */
export const reachable = signal<boolean | null>(null);
/** Whether the server refused this device's token. */
export const refused = signal(false);
export const files = signal<readonly InstalledFile[]>([]);

export const place = signal<Place>("server");
export const variant = signal<Variant>("tuned");
export const modelSha = signal<string | null>(null);
export const longest = signal(1024);
export const theme = signal<Theme>("system");

const KEPT = { place, variant, modelSha, longest, theme } as const;

/** The installed model that answers on this device. */
export const deviceModel = computed<InstalledFile | null>(() => {
  const models = files.value.filter(({ kind }) => kind === "model");
  return models.find(({ sha256 }) => sha256 === modelSha.value) ?? models[0] ?? null;
});

/** The installed adapter: the server's current one, else the newest. */
export const deviceAdapter = computed<InstalledFile | null>(() => {
  const adapters = files.value.filter(({ kind }) => kind === "adapter");
  const current = offered("adapter").map(({ sha256 }) => sha256);
  const newest = adapters.toSorted((a, b) => b.installedAt - a.installedAt);
  return newest.find(({ sha256 }) => current.includes(sha256)) ?? newest[0] ?? null;
});

function offered(kind: DeviceFile["kind"]): DeviceFile[] {
  return (about.value?.device_files ?? []).filter((file) => file.kind === kind);
}

/** Whether the chosen place can answer with the adapter on. */
export const hasTuned = computed(() =>
  place.value === "server" ? (about.value?.variants.includes("tuned") ?? true) : deviceAdapter.value !== null,
);

/** The variant that answers: the chosen one where it exists. */
export const answering = computed<Variant>(() => (hasTuned.value ? variant.value : "base"));

async function chosen(): Promise<DeviceModel | null> {
  const [model, adapter] = [deviceModel.value, deviceAdapter.value];
  const blob = model && (await open(model.sha256));
  if (!model || !blob) return null;
  const adapterBlob = adapter && (await open(adapter.sha256));
  return {
    model: { sha256: model.sha256, blob },
    adapter: adapter && adapterBlob ? { sha256: adapter.sha256, blob: adapterBlob } : null,
    chatTemplate: about.value?.chat_template ?? null,
    context: Math.min(about.value?.model.context ?? 4096, 4096),
  };
}

export const deviceEngine = new DeviceEngine(chosen);
const serverEngine = new ServerEngine(() => token.value);

export const engine = (): Engine => (place.value === "device" ? deviceEngine : serverEngine);

/** Name of the model that answers, for the record. */
export const modelName = computed(() =>
  place.value === "device" ? (deviceModel.value?.name ?? "") : (about.value?.model.name ?? ""),
);

export async function refreshFiles(): Promise<void> {
  files.value = await installed();
}

/** Brings back what an earlier visit chose, and keeps what is chosen from now on. */
export async function restore(): Promise<void> {
  for (const [name, setting] of Object.entries(KEPT)) {
    const value = await readSetting<never>(name);
    if (value !== undefined) setting.value = value;
  }
  for (const [name, setting] of Object.entries(KEPT)) {
    let first = true;
    effect(() => {
      const { value } = setting;
      if (!first) void writeSetting(name, value);
      first = false;
    });
  }
  effect(() => {
    if (theme.value === "system") delete document.documentElement.dataset["theme"];
    else document.documentElement.dataset["theme"] = theme.value;
  });
}
