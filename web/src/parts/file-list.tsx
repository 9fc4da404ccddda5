/** Model files: to be downloaded, on their way, or on this device. */

import { signal } from "@preact/signals";
import type { VNode } from "preact";
import { useEffect } from "preact/hooks";

import type { DeviceFile } from "../engines/api";
import { storeRuntime } from "../engines/runtime";
import { about, deviceEngine, deviceModel, files, modelSha, place, reachable, refreshFiles, token } from "../state";
import type { InstalledFile } from "../storage/database";
import { InstallError, install, partial, remove } from "../storage/files";
import { size, text as t } from "../text";
import { Icon } from "./icons";

interface Progress {
  readonly bytes: number;
  readonly control: AbortController | null;
  readonly failed: string;
}

const progress = signal<Readonly<Record<string, Progress>>>({});

function note(sha256: string, change: Partial<Progress>): void {
  const before = progress.value[sha256] ?? { bytes: 0, control: null, failed: "" };
  progress.value = { ...progress.value, [sha256]: { ...before, ...change } };
}

async function start(file: DeviceFile): Promise<void> {
  const control = new AbortController();
  note(file.sha256, { control, failed: "" });
  try {
    await Promise.all([
      install(file, token.value, (bytes) => note(file.sha256, { bytes }), control.signal),
      storeRuntime().catch(() => {
        throw new InstallError("network", "the engine could not be fetched");
      }),
    ]);
    await refreshFiles();
    note(file.sha256, { control: null });
  } catch (error) {
    const reason = error instanceof InstallError ? error.reason : "network";
    const failed = control.signal.aborted ? "" : t.device.failed[reason];
    note(file.sha256, { control: null, failed, bytes: await partial(file.sha256) });
  }
}

async function take(file: InstalledFile | DeviceFile): Promise<void> {
  if (file.kind === "model" && file.sha256 === deviceModel.value?.sha256) await deviceEngine.unload();
  await remove(file.sha256);
  note(file.sha256, { bytes: 0, control: null, failed: "" });
  await refreshFiles();
  if (!deviceModel.value && place.value === "device") place.value = "server";
}

export function FileList({ onChange }: { onChange: () => void }): VNode {
  const offered = about.value?.device_files ?? [];
  const old = files.value.filter(({ sha256 }) => !offered.some((file) => file.sha256 === sha256));
  useEffect(onChange, [files.value]);
  useEffect(() => {
    for (const { sha256 } of offered) {
      if (!progress.value[sha256]?.control) void partial(sha256).then((bytes) => bytes && note(sha256, { bytes }));
    }
  }, [about.value]);
  if (!offered.length && !old.length) return <p class="note">{t.device.none}</p>;
  return (
    <ul class="files">
      {offered.map((file) => (
        <Row key={file.sha256} file={file} here={files.value.some(({ sha256 }) => sha256 === file.sha256)} />
      ))}
      {old.map((file) => (
        <Row key={file.sha256} file={file} here note={t.device.old} />
      ))}
    </ul>
  );
}

function Row({ file, here, note: remark }: { file: DeviceFile | InstalledFile; here: boolean; note?: string }): VNode {
  const { bytes = 0, control = null, failed = "" } = progress.value[file.sha256] ?? {};
  const [done, total] = [size(bytes), size(file.bytes)];
  const state = here
    ? (remark ?? t.device.installed)
    : control
      ? t.device.progress(bytes ? done : "0", total)
      : bytes > 0
        ? t.device.partial(done, total)
        : total;
  return (
    <li class={here ? "here" : ""}>
      <div class="what">
        <span class="title">{file.name}</span>
        <span class="faint" role={control ? undefined : "status"}>
          {t.device.kind[file.kind]} · {here ? `${total} · ` : ""}
          {state}
        </span>
        {control && <progress max={file.bytes} value={bytes} aria-label={t.device.progress(done, total)} />}
        {failed && (
          <span class="failure" role="alert">
            {failed}
          </span>
        )}
      </div>
      <div class="row tight">
        <Actions file={file} here={here} running={control} started={bytes > 0} />
      </div>
    </li>
  );
}

interface ActionsProps {
  readonly file: DeviceFile | InstalledFile;
  readonly here: boolean;
  readonly running: AbortController | null;
  readonly started: boolean;
}

function Actions({ file, here, running, started }: ActionsProps): VNode {
  const several = files.value.filter(({ kind }) => kind === "model").length > 1;
  const chooses = here && several && file.kind === "model" && deviceModel.value?.sha256 !== file.sha256;
  return (
    <>
      {chooses && (
        <button type="button" class="soft" onClick={() => (modelSha.value = file.sha256)}>
          {t.device.choose}
        </button>
      )}
      {running ? (
        <Button icon="pause" label={t.device.pause(file.name)} onClick={() => running.abort()} />
      ) : !here && "url" in file ? (
        <Button
          icon="download"
          label={started ? t.device.resume(file.name) : t.device.install(file.name)}
          disabled={reachable.value === false}
          onClick={() => void start(file)}
        />
      ) : null}
      {(here || (started && !running)) && (
        <Button icon="trash" label={t.device.remove(file.name)} onClick={() => void take(file)} />
      )}
    </>
  );
}

function Button(props: { icon: "pause" | "download" | "trash"; label: string; disabled?: boolean; onClick: () => void }): VNode {
  return (
    <button
      type="button"
      class={props.icon === "download" ? "soft square" : "quiet square"}
      aria-label={props.label}
      disabled={props.disabled ?? false}
      onClick={props.onClick}
    >
      <Icon name={props.icon} />
    </button>
  );
}
