/** Every English text of the app, in one place: translate this file. */

const one = (count: number, singular: string, plural: string): string => (count === 1 ? singular : plural);

export const text = {
  name: "MediMind",
  tagline: "Clinical questions, answered by your own model.",
  notice: "Decision support for professionals. Not a diagnosis.",
  skip: "Skip to the conversation",
  nav: { label: "Main", ask: "Ask", compare: "Compare", history: "History", device: "Models", about: "About" },
  place: { server: "Server", device: "This device" },
  variant: { base: "Before tuning", tuned: "Tuned", label: "Model" },
  status: {
    online: "Connected to the server",
    offline: "The server cannot be reached",
    choose: (place: string, variant: string) => `Answers come from: ${place}, ${variant}. Change`,
  },
  ask: {
    title: "Ask",
    label: "Your question",
    placeholder: "Describe the case, or ask…",
    send: "Send question",
    stop: "Stop",
    fresh: "New conversation",
    empty: "What would you like to think through?",
    hint: {
      server: "The answer streams from your server. Nothing is sent anywhere else.",
      device: "The answer is written on this device. Nothing leaves it.",
    },
    examples: [
      "A 63-year-old has painless jaundice and a palpable gallbladder. What is the likeliest cause?",
      "Which drug reverses the effect of heparin, and how is it dosed?",
      "How do I tell iron deficiency from anaemia of chronic disease?",
    ],
    examplesLabel: "Examples",
    enter: "Enter sends, Shift + Enter starts a new line",
  },
  answer: {
    yours: "You",
    model: "Answer",
    thinking: "Thinking…",
    thinkingFor: (seconds: number) => `Thinking for ${Math.round(seconds)} s…`,
    thought: (seconds: number) => {
      const whole = Math.max(1, Math.round(seconds));
      return `Thought for ${whole} ${one(whole, "second", "seconds")}`;
    },
    thoughtCut: "Thoughts, cut off",
    waiting: (ahead: number | null) =>
      ahead === null
        ? "The server is busy. Asking again shortly…"
        : ahead === 0
          ? "Your question is next…"
          : `${ahead} ${one(ahead, "question is", "questions are")} ahead of yours…`,
    preparing: {
      engine: "Starting the engine…",
      model: "Loading the model…",
      prompt: "Reading the question…",
    },
    connecting: "Sending the question…",
    speed: (tokens: number, perSecond: number | null) =>
      perSecond === null
        ? `${tokens} ${one(tokens, "token", "tokens")}`
        : `${tokens} tokens, ${perSecond < 10 ? perSecond.toFixed(1) : Math.round(perSecond)}/s`,
    cut: "Cut off: the answer reached its longest length.",
    stopped: "Stopped.",
    empty: "The model ended without an answer.",
    copy: "Copy",
    copied: "Copied",
    again: "Ask again",
    edit: "Edit",
    retry: "Try again",
    started: "The model is answering.",
    finished: "The answer is complete.",
  },
  trouble: {
    unreachable: "The server cannot be reached. Is it running, and are you on its network?",
    token: "The server does not know this device. Scan its code again: `medimind serve` shows it at start.",
    busy: "The server has too many questions waiting. Try again in a moment.",
    "too-long": "The conversation is longer than the model can read. Start a new one.",
    stopped: "The model stopped before the answer was complete.",
    refused: "The server refused the question.",
    "not-installed": "No model is on this device yet. Put one here under Models while the server can be reached.",
    memory: "This device has not enough free memory for the model. Close other tabs, or choose a smaller model.",
    unsupported: "This browser cannot run models (it lacks WebAssembly SIMD). Ask the server instead.",
    useDevice: "Answer on this device",
    openModels: "Open Models",
  },
  compare: {
    title: "Before and after",
    intro: "The same question, the same settings, with the tuning off and on.",
    label: "Question for both",
    run: "Compare",
    before: "Before",
    after: "After",
    missing: "There is no adapter here: the model was served without one.",
    missingDevice: "Put the adapter on this device under Models to compare here.",
    note: "One question shows how the model changed, not whether it got better. The report does that.",
    report: "Open the report",
  },
  history: {
    title: "History",
    search: "Search conversations",
    empty: "No conversations yet. They stay on this device.",
    none: "Nothing found.",
    count: (count: number) => `${count} ${one(count, "conversation", "conversations")}`,
    open: (question: string) => `Open: ${question}`,
    remove: (question: string) => `Delete: ${question}`,
    export: "Export",
    removeAll: "Delete all",
    sure: "Delete every conversation on this device? This cannot be undone.",
    sureYes: "Delete all",
    sureNo: "Keep",
    removed: "Deleted.",
    questions: (count: number) => `${count} ${one(count, "question", "questions")}`,
  },
  device: {
    title: "Models",
    answers: "Where answers come from",
    serverHint: (model: string) => `${model}, on your server`,
    serverGone: "cannot be reached now",
    deviceHint: (model: string) => `${model}, without a network`,
    deviceNone: "no model on this device yet",
    variantTitle: "Which model answers",
    baseHint: "as it was before tuning",
    tunedHint: (size: string) => (size ? `with the adapter, ${size}` : "with the adapter"),
    files: "On this device",
    filesIntro: "Put the model here to ask without a network. It stays in this browser's own storage.",
    none: "The server offers no files for devices.",
    kind: { model: "Model", adapter: "Adapter" },
    install: (name: string) => `Download ${name}`,
    resume: (name: string) => `Go on downloading ${name}`,
    remove: (name: string) => `Remove ${name}`,
    pause: (name: string) => `Pause ${name}`,
    installed: "On this device, checked",
    progress: (done: string, total: string) => `${done} of ${total}`,
    partial: (done: string, total: string) => `${done} of ${total} here; goes on where it stopped`,
    old: "No longer offered by the server",
    choose: "Use this model",
    space: (used: string, quota: string) => `${used} used of ${quota} that this browser allows`,
    threads: (count: number) => `${count} ${one(count, "thread", "threads")}`,
    oneThread: "One thread: this page is not cross-origin isolated.",
    cannot: "This browser cannot keep model files (it lacks a file system of its own).",
    failed: {
      damaged: "The file arrived damaged and was thrown away. Download it again.",
      space: "There is not enough space for this file in the browser's storage.",
      token: "The server does not know this device. Scan its code again.",
      network: "The connection was lost. What has come is kept: download again to go on.",
    },
    length: "Longest answer",
    lengthHint: (tokens: number) => `${tokens} tokens, thinking included`,
    theme: "Appearance",
    themes: { system: "As the device", light: "Light", dark: "Dark" },
  },
  about: {
    title: "About the model",
    unknown: "not stated",
    model: "Model",
    base: "Made from",
    quantization: "Quantisation",
    size: "Size",
    parameters: "Parameters",
    context: "Reads at most",
    tokens: (count: string) => `${count} tokens`,
    license: "Licence",
    adapter: "Adapter",
    noAdapter: "none: the model is served as it is",
    sources: "Sources",
    evaluation: "Evaluation",
    evaluationIntro: "The same held-out cases before and after tuning, with intervals and exact tests.",
    openReport: "Open the before/after report",
    noReport: "No report belongs to this model: nobody has measured whether the tuning helped.",
    reportGone: "The report lies on the server, which cannot be reached now.",
    privacy: "What leaves this device",
    privacyText:
      "Your question goes to your own server, or nowhere when this device answers. There is no telemetry. Conversations are kept in this browser only, until you delete them.",
    limits: "What it is for",
    limitsText:
      "Research, and support for professionals who check what they read. Language models state wrong things fluently. It is no device, it makes no diagnosis, and it does not replace your judgement or local guidance.",
    version: (version: string) => `MediMind ${version}`,
    connect: "Connect to a server",
    connectText: "Scan the code that `medimind serve` shows, or paste its link or token here.",
    connectLabel: "Link or token",
    connectButton: "Connect",
  },
  redFlag: {
    label: "Emergency notice",
    always: "This notice comes from fixed rules, not from the model. Do not wait for the answer below.",
    dismiss: "Close notice",
  },
} as const;

/** Bytes for people. */
export function size(bytes: number | null): string {
  if (bytes === null) return text.about.unknown;
  if (bytes < 1e6) return `${Math.max(1, Math.round(bytes / 1e3))} KB`;
  return bytes < 1e9 ? `${(bytes / 1e6).toFixed(bytes < 1e7 ? 1 : 0)} MB` : `${(bytes / 1e9).toFixed(1)} GB`;
}
