// The page without a network: its own files from a cache, everything else untouched.
// `plugins/service-worker.ts` fills in the two constants.
const VERSION = "__VERSION__";
const FILES = ["__FILES__"];
const SHELL = `medimind-shell-${VERSION}`;

self.addEventListener("install", (event) => {
  event.waitUntil(
    caches
      .open(SHELL)
      .then((cache) => cache.addAll(FILES.map((file) => new Request(file, { cache: "reload" }))))
      .then(() => self.skipWaiting()),
  );
});

self.addEventListener("activate", (event) => {
  const outdated = (name) => name.startsWith("medimind-shell-") && name !== SHELL;
  event.waitUntil(
    caches
      .keys()
      .then((names) => Promise.all(names.filter(outdated).map((name) => caches.delete(name))))
      .then(() => self.clients.claim()),
  );
});

self.addEventListener("fetch", (event) => {
  const url = new URL(event.request.url);
  if (event.request.method !== "GET" || url.origin !== self.location.origin) return;
  if (/^\/(v1|api|models|report|metrics|healthz|readyz|ca\.crt)(\/|$)/.test(url.pathname)) return;
  if (event.request.mode === "navigate") {
    event.respondWith(page(event.request));
  } else if (FILES.includes(url.pathname)) {
    event.respondWith(stored(url.pathname, event.request));
  }
});

async function stored(path, request) {
  const cache = await caches.open(SHELL);
  return (await cache.match(path)) ?? fetch(request);
}

// The stored page, so that it opens at once; a new version is installed beside it and is taken by
// the next start, all of its files together.
async function page(request) {
  const cache = await caches.open(SHELL);
  return (await cache.match("/")) ?? fetch(request);
}
