/** The server's addresses and forms (docs/decisions/0005-serving-contract.md). */

import { AskError } from "./engine";

export interface DeviceFile {
  readonly name: string;
  readonly kind: "model" | "adapter";
  readonly url: string;
  readonly bytes: number;
  readonly sha256: string;
}

export interface About {
  readonly version: string;
  readonly model: {
    readonly name: string;
    readonly family: string | null;
    readonly quantization: string | null;
    readonly bytes: number | null;
    readonly parameters: number | null;
    readonly context: number | null;
    readonly license: string | null;
    readonly base_model: string | null;
    readonly sources: readonly string[] | null;
  };
  readonly adapter: { readonly name: string; readonly bytes: number | null } | null;
  readonly variants: readonly ("base" | "tuned")[];
  readonly engine: { readonly kind: string; readonly ready: boolean };
  readonly limits: { readonly max_tokens: number; readonly max_forecast_bytes?: number };
  readonly device_files: readonly DeviceFile[];
  /** Jinja source that chats are rendered by; null leaves it to the file's own. */
  readonly chat_template?: string | null;
  readonly report: boolean;
  readonly forecast: boolean;
  readonly notice: string;
}

export interface ApiProblem {
  readonly message: string;
  readonly code: string | null;
}

/** Calls one address with the token; a failure becomes an `AskError`. */
export async function call(
  path: string,
  token: string | null,
  init: RequestInit = {},
): Promise<Response> {
  const headers = new Headers(init.headers);
  if (token) headers.set("Authorization", `Bearer ${token}`);
  let response: Response;
  try {
    response = await fetch(path, { ...init, headers, cache: "no-store", credentials: "omit" });
  } catch (error) {
    if (init.signal?.aborted) throw error;
    throw new AskError("unreachable");
  }
  if (!response.ok) throw await problemOf(response);
  return response;
}

async function problemOf(response: Response): Promise<AskError> {
  const { message, code } = readProblem(await response.text().catch(() => ""));
  const retry = Number(response.headers.get("Retry-After"));
  if (response.status === 401) return new AskError("token", message);
  if (response.status === 429 || response.status === 503) {
    return new AskError("busy", message, Number.isFinite(retry) && retry > 0 ? retry : 2);
  }
  if (code === "context_length_exceeded") return new AskError("too-long", message);
  return new AskError("refused", message || `HTTP ${response.status}`);
}

/** The text of an error in OpenAI's form, or nothing. */
export function readProblem(text: string): ApiProblem {
  try {
    const { error } = JSON.parse(text) as { error?: { message?: unknown; code?: unknown } };
    return {
      message: typeof error?.message === "string" ? error.message : "",
      code: typeof error?.code === "string" ? error.code : null,
    };
  } catch {
    return { message: "", code: null };
  }
}

/** What the server says about its model. */
export async function fetchAbout(token: string | null, signal?: AbortSignal): Promise<About> {
  const response = await call("/api/about", token, signal ? { signal } : {});
  return (await response.json()) as About;
}
