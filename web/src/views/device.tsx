import { signal } from "@preact/signals";
import type { VNode } from "preact";
import { useEffect } from "preact/hooks";

import { Choice } from "../parts/choice";
import { FileList } from "../parts/file-list";
import {
  about,
  answering,
  deviceAdapter,
  deviceModel,
  hasTuned,
  longest,
  place,
  reachable,
  refreshFiles,
  theme,
  variant,
} from "../state";
import { canStore } from "../storage/files";
import { size, text as t } from "../text";

const LENGTHS = [256, 512, 1024, 2048, 4096] as const;
const space = signal<{ used: number; quota: number } | null>(null);

async function refreshSpace(): Promise<void> {
  const { usage, quota } = (await navigator.storage?.estimate?.()) ?? {};
  space.value = usage !== undefined && quota ? { used: usage, quota } : null;
}

export function DeviceView(): VNode {
  useEffect(() => {
    void refreshFiles().then(refreshSpace);
  }, []);
  return (
    <div class="scroll" tabIndex={0} role="region" aria-label={t.device.title}>
      <div class="column">
        <h1 tabIndex={-1}>{t.device.title}</h1>
        <Where />
        <Which />
        <h2>{t.device.files}</h2>
        <p class="faint">{t.device.filesIntro}</p>
        {canStore() ? <FileList onChange={() => void refreshSpace()} /> : <p class="note">{t.device.cannot}</p>}
        {space.value && <p class="faint">{t.device.space(size(space.value.used), size(space.value.quota))}</p>}
        {!globalThis.crossOriginIsolated && <p class="note">{t.device.oneThread}</p>}
        <Settings />
      </div>
    </div>
  );
}

function Where(): VNode {
  const server = about.value?.model.name;
  const gone = reachable.value === false ? t.device.serverGone : "";
  return (
    <Choice
      legend={t.device.answers}
      name="place"
      value={place.value}
      onChange={(value) => (place.value = value)}
      options={[
        {
          value: "server",
          title: t.place.server,
          hint: [server ? t.device.serverHint(server) : "", gone].filter(Boolean).join("; ") || t.status.offline,
        },
        {
          value: "device",
          title: t.place.device,
          hint: deviceModel.value
            ? `${t.device.deviceHint(deviceModel.value.name)}, ${size(deviceModel.value.bytes)}`
            : t.device.deviceNone,
          disabled: !deviceModel.value,
        },
      ]}
    />
  );
}

function Which(): VNode {
  const bytes = place.value === "device" ? deviceAdapter.value?.bytes : about.value?.adapter?.bytes;
  return (
    <Choice
      legend={t.device.variantTitle}
      name="variant"
      value={answering.value}
      onChange={(value) => (variant.value = value)}
      options={[
        { value: "tuned", title: t.variant.tuned, hint: t.device.tunedHint(bytes ? size(bytes) : ""), disabled: !hasTuned.value },
        { value: "base", title: t.variant.base, hint: t.device.baseHint },
      ]}
    />
  );
}

function Settings(): VNode {
  const most = about.value?.limits.max_tokens ?? Infinity;
  return (
    <>
      <h2 id="length">{t.device.length}</h2>
      <select
        aria-labelledby="length"
        value={longest.value}
        onChange={(event) => (longest.value = Number(event.currentTarget.value))}
      >
        {LENGTHS.filter((tokens) => tokens <= most).map((tokens) => (
          <option key={tokens} value={tokens} selected={tokens === longest.value}>
            {t.device.lengthHint(tokens)}
          </option>
        ))}
      </select>
      <Choice
        legend={t.device.theme}
        name="theme"
        compact
        value={theme.value}
        onChange={(value) => (theme.value = value)}
        options={(["system", "light", "dark"] as const).map((value) => ({ value, title: t.device.themes[value] }))}
      />
    </>
  );
}
