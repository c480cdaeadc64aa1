// The service's API as the page uses it: the token, requests, problem documents, event streams.

const KEY = "clusterucb-token";

/** An answer that is not what was asked for: `status` 0 where the service was not reached. */
export class Problem extends Error {
  constructor(status, detail, errors = [], retryAfter = null) {
    super(detail);
    this.status = status;
    this.errors = errors;
    this.retryAfter = retryAfter;
  }
}

export const token = {
  get: () => sessionStorage.getItem(KEY),
  set: (value) => sessionStorage.setItem(KEY, value),
  clear: () => sessionStorage.removeItem(KEY),
};

/** Send a request and return the Response. Raises Problem. */
export async function send(path, { method = "GET", body = null, headers = {}, signal = null } = {}) {
  const all = { ...headers };
  if (token.get()) all.Authorization = `Bearer ${token.get()}`;
  if (body !== null) all["Content-Type"] = "application/json";
  let answer;
  try {
    answer = await fetch(path, { method, headers: all, signal, body: body === null ? null : JSON.stringify(body), cache: "no-store" });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Problem(0, "The service cannot be reached: it may be down, or this machine offline.");
  }
  if (!answer.ok) throw await problemOf(answer);
  return answer;
}

export async function ask(path, options) {
  return (await send(path, options)).json();
}

async function problemOf(answer) {
  let found = {};
  try {
    found = await answer.json();
  } catch {
    // something between here and the service answered in its own words
  }
  const retry = Number(answer.headers.get("Retry-After")) || null;
  return new Problem(answer.status, found.detail ?? `The service answered ${answer.status}.`, found.errors ?? [], retry);
}

/**
 * Follow a run's events from byte `after` on, again after every break, until the run is over or `signal` aborts.
 * `on(kind, data)` gets each; `onState(words)` hears why nothing comes, or null once it does again. Raises Problem where
 * trying again would not help.
 */
export async function follow(id, after, on, { signal, onState = () => {} }) {
  let last = after;
  let pause = 1;
  while (!signal.aborted) {
    try {
      const headers = last ? { "Last-Event-ID": String(last) } : {};
      const answer = await send(`/v1/selections/${id}/events`, { headers, signal });
      onState(null);
      for await (const event of eventsOf(answer.body)) {
        pause = 1;
        if (event.id !== null) last = event.id;
        const data = JSON.parse(event.data);
        on(event.kind, data);
        if (event.kind === "record" && isOver(data)) return;
      }
    } catch (error) {
      if (signal.aborted) return;
      if (error instanceof Problem && error.status >= 400 && error.status < 500 && error.status !== 429) throw error;
      onState(error instanceof Problem && error.status ? error.message : "The connection was lost. Trying again.");
      if (error.retryAfter) pause = error.retryAfter;
    }
    await sleep(pause * 1000, signal);
    pause = Math.min(15, pause * 2);
  }
}

export function isOver(record) {
  return ["finished", "failed", "cancelled"].includes(record.status);
}

/** Read server-sent events from a stream of bytes. */
async function* eventsOf(stream) {
  const reader = stream.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  try {
    while (true) {
      const { value, done } = await reader.read();
      if (done) return;
      rest += value;
      const blocks = rest.split("\n\n");
      rest = blocks.pop();
      for (const block of blocks) {
        const event = { id: null, kind: "message", data: "" };
        for (const line of block.split("\n")) {
          const [, field, text] = /^(id|event|data): ?(.*)$/.exec(line) ?? [];
          if (field === "id") event.id = Number(text);
          else if (field === "event") event.kind = text;
          else if (field === "data") event.data += text;
        }
        if (event.data) yield event;
      }
    }
  } finally {
    reader.cancel().catch(() => {});
  }
}

export function sleep(milliseconds, signal) {
  return new Promise((resolve) => {
    const timer = setTimeout(resolve, milliseconds);
    signal?.addEventListener("abort", () => { clearTimeout(timer); resolve(); }, { once: true });
  });
}

/** Fetch a file with the token and hand it to the browser to keep. */
export async function download(path, name) {
  const blob = await (await send(path)).blob();
  const url = URL.createObjectURL(blob);
  const link = document.createElement("a");
  link.href = url;
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(url), 60000);
}

/** A key that makes a request one and the same however often it is sent. */
export function newKey() {
  return [...crypto.getRandomValues(new Uint8Array(16))].map((byte) => byte.toString(16).padStart(2, "0")).join("");
}
