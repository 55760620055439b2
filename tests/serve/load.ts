/**
 * Puts a server under load, and prints what became of it: streams at the same time, clients that leave, requests one
 * after another, or malformed requests.
 *
 *     deno run --allow-net=127.0.0.1 tests/serve/load.ts http://127.0.0.1:8000 MODEL streams 200
 *     deno run --allow-net=127.0.0.1 tests/serve/load.ts http://127.0.0.1:8000 MODEL leaving 1000
 *     deno run --allow-net=127.0.0.1 tests/serve/load.ts http://127.0.0.1:8000 MODEL requests 10000
 *     deno run --allow-net=127.0.0.1 tests/serve/load.ts http://127.0.0.1:8000 MODEL malformed 10000
 *
 * @module
 */

/** A server, and one of its models. */
interface Server {
  address: string;
  model: string;
}

type Random = () => number;

/** Numbers from 0 to 1, the same ones for the same seed (mulberry32). */
function randomOf(seed: number): Random {
  let state = seed;
  return () => {
    state = (state + 0x6d2b79f5) | 0;
    let t = Math.imul(state ^ (state >>> 15), 1 | state);
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t;
    return ((t ^ (t >>> 14)) >>> 0) / 2 ** 32;
  };
}

function choose<T>(random: Random, values: readonly T[]): T {
  return values[Math.floor(random() * values.length)]!;
}

/** Requests of all lengths and samplers. */
function requestOf({ model }: Server, i: number) {
  const random = randomOf(i);
  return {
    model,
    prompt: choose(random, [
      "One cat",
      "",
      "One cat and 7 dogs met in the park. ".repeat(5),
      "🦊 é",
    ]),
    max_tokens: 1 + Math.floor(random() * 40),
    seed: i,
    temperature: choose(random, [0, 0.5, 1, 1.5]),
    top_p: choose(random, [1, 0.8]),
    top_k: choose(random, [0, 3, 40]),
    presence_penalty: choose(random, [0, 0.5]),
    repetition_penalty: choose(random, [1, 1.3]),
    ...i % 5 === 0 ? { logprobs: 2 } : {},
    ...i % 7 === 0 ? { stop: [" dogs", "park"] } : {},
  };
}

function post({ address }: Server, body: unknown, signal?: AbortSignal): Promise<Response> {
  return fetch(`${address}/v1/completions`, {
    method: "POST",
    headers: { "content-type": "application/json" },
    body: JSON.stringify(body),
    ...signal ? { signal } : {},
  });
}

/** The text of a stream, and the logprobs of its tokens. */
async function streamed(server: Server, body: object): Promise<string> {
  const response = await post(server, { ...body, stream: true });
  const events = (await response.text()).split("\n\n");
  if (events.at(-2) !== "data: [DONE]") throw new Error(`a stream ends with ${events.at(-2)}`);
  const parts = events.slice(0, -2).map((event) => JSON.parse(event.slice("data: ".length)));
  return JSON.stringify([
    parts.map(({ choices: [{ text }] }) => text).join(""),
    parts.flatMap(({ choices: [{ logprobs }] }) => logprobs?.token_logprobs ?? []),
    parts.at(-1).choices[0].finish_reason,
  ]);
}

/** Streams at the same time, each beside what it is alone. */
async function streams(server: Server, count: number) {
  const requests = Array.from({ length: count }, (_, i) => requestOf(server, i));
  const together = await Promise.allSettled(requests.map((body) => streamed(server, body)));
  let different = 0;
  for (const [i, result] of together.entries()) {
    if (result.status === "fulfilled" && result.value !== await streamed(server, requests[i]!)) {
      different++;
    }
  }
  const lost = together.filter(({ status }) => status === "rejected");
  return {
    count,
    lost: lost.length,
    different,
    reason: lost.map((result) => `${(result as PromiseRejectedResult).reason}`)[0],
  };
}

/** The value of a metric of the server's model; 0 if it has none. */
async function metric({ address, model }: Server, name: string, labels = ""): Promise<number> {
  const metrics = await (await fetch(`${address}/metrics`)).text();
  const [, after = "0"] = metrics.split(`\n${name}{model="${model}"${labels}} `);
  return Number(after.split("\n")[0]);
}

/**
 * Waits until the server computes nothing; returns whether it does so within two minutes, in which it may compile its
 * kernels.
 */
async function becomesFree(server: Server): Promise<boolean> {
  const since = performance.now();
  while (await metric(server, "toy_running") + await metric(server, "toy_waiting") > 0) {
    if (performance.now() - since > 120_000) return false;
  }
  return true;
}

/** Clients that leave at any moment, and how long their slots stay taken. */
async function leaving(server: Server, count: number) {
  const endless = { model: server.model, prompt: "One cat", max_tokens: 16_384, temperature: 0 };
  const random = randomOf(1), times: number[] = [];
  const finished = () => metric(server, "toy_completions_total", ',reason="length"');
  const before = await finished();
  for (let i = 0; i < count; i++) {
    // on a new connection Deno 2.9 sees a client leave later if its request has more than 512 bytes
    const user = "u".repeat(random() < 0.5 ? 0 : 1000);
    const body = JSON.stringify({ ...endless, stream: random() < 0.5, user });
    const { host, hostname, port } = new URL(server.address);
    const head = `POST /v1/completions HTTP/1.1\r\nhost: ${host}\r\n` +
      `content-type: application/json\r\ncontent-length: ${body.length}\r\n\r\n`;
    const connection = await Deno.connect({ hostname, port: Number(port) });
    await connection.write(new TextEncoder().encode(head + body));
    await new Promise((resolve) => setTimeout(resolve, 150 * random() ** 2));
    connection.close();
    const since = performance.now();
    if (!await becomesFree(server)) throw new Error(`client ${i} has left, not its slot`);
    times.push(performance.now() - since);
  }
  times.sort((a, b) => a - b);
  const at = (share: number) => Math.round(times[Math.floor(share * (count - 1))]!);
  return {
    count,
    finished: await finished() - before,
    millisecondsUntilFree: { median: at(0.5), p99: at(0.99), most: at(1) },
  };
}

/** Requests, eight at a time, and the memory of the server as they go. */
async function requests(server: Server, count: number) {
  const megabytes: number[] = [];
  let next = 0, failed = 0;
  const ask = async () => {
    for (let i = next++; i < count; i = next++) {
      const body = { ...requestOf(server, i), stream: i % 2 === 0 };
      const response = await post(server, body);
      await response.text();
      if (!response.ok) failed++;
      if (i % Math.ceil(count / 10) !== 0) continue;
      const metrics = await (await fetch(`${server.address}/metrics`)).text();
      megabytes.push(
        Math.round(Number(/^process_resident_memory_bytes (.*)$/m.exec(metrics)![1]) / 1e6),
      );
    }
  };
  await Promise.all(Array.from({ length: 8 }, ask));
  return { count, failed, megabytes };
}

/** Values where others are expected. */
const ODD_VALUES: readonly unknown[] = [
  null,
  true,
  0,
  -1,
  1.5,
  1e308,
  2 ** 53,
  "",
  "\ud800",
  "\u0000\u202e\ufeff",
  "🦊".repeat(1000),
  "x".repeat(70_000),
  [],
  [[]],
  [[[1]]],
  [null, "a"],
  Array(200).fill("a"),
  {},
  { __proto__: null, constructor: 1 },
  { role: "user" },
  [{ role: "user", content: "\udc00" }],
  [{ role: "user", content: [{ type: "image_url", image_url: { url: "data:," } }] }],
];

const FIELDS = (
  "model prompt messages max_tokens max_completion_tokens n seed stop stream stream_options " +
  "logprobs top_logprobs temperature top_p top_k min_p repetition_penalty repetition_window " +
  "presence_penalty frequency_penalty echo return_token_ids logit_bias tools response_format " +
  "__proto__ constructor toString x"
).split(" ");

/** A request, as bytes, that may be wrong in any way. */
function malformedRequest({ model, address }: Server, random: Random): Uint8Array {
  const { host } = new URL(address);
  const isChat = random() < 0.5;
  let path = isChat ? "/v1/chat/completions" : "/v1/completions", method = "POST";
  const body: Record<string, unknown> = isChat
    ? { model, messages: [{ role: "user", content: "a" }], max_tokens: 2 }
    : { model, prompt: "a", max_tokens: 2 };
  for (let i = 0; i < 3 * random(); i++) {
    const field = choose(random, FIELDS);
    if (random() < 0.1) delete body[field];
    else {Object.defineProperty(body, field, {
        value: choose(random, ODD_VALUES),
        enumerable: true,
        configurable: true,
      });}
  }
  let bytes: Uint8Array<ArrayBuffer> = new TextEncoder().encode(JSON.stringify(body));
  const spoil: readonly (() => void)[] = [
    () => bytes = bytes.slice(0, random() * bytes.length),
    () => bytes = bytes.map((byte) => random() < 0.05 ? random() * 256 : byte),
    () => bytes = new TextEncoder().encode("[".repeat(50_000)),
    () => bytes = new TextEncoder().encode(`{"model":${"1".repeat(400)}}`),
    () => bytes = new Uint8Array(2 ** 20 + random() * 1000).fill(32),
    () =>
      bytes = new TextEncoder().encode(choose(random, ["", "null", "7", '"a"', "{}", "\ufeff{}"])),
  ];
  if (random() < 0.4) choose(random, spoil)();
  const headers: Record<string, string> = {
    host,
    "content-type": "application/json",
    "content-length": `${bytes.length}`,
    connection: "close",
  };
  const odd: readonly (() => void)[] = [
    () => headers["content-type"] = choose(random, ["", "text/plain", "application/jsonx", "a/b"]),
    () => headers["host"] = choose(random, ["", "evil.example", "127.0.0.1@evil", "[::1", "a b"]),
    () => headers["origin"] = choose(random, ["null", "http://evil.example", "\x01", ""]),
    () => headers["authorization"] = "Bearer " + "x".repeat(random() * 5000),
    () => headers["x-long"] = "y".repeat(random() * 100_000),
    () =>
      headers["content-length"] = choose(random, ["-1", "1e3", "99999999999999999999", "", "3"]),
    () => headers["transfer-encoding"] = choose(random, ["chunked", "gzip", "chunked, chunked"]),
    () => headers["expect"] = "100-continue",
    () => headers["upgrade"] = choose(random, ["websocket", "h2c"]),
    () => delete headers[choose(random, Object.keys(headers))],
    () => method = choose(random, ["GET", "PUT", "OPTIONS", "HEAD", "BREW", "post", "\x00"]),
    () =>
      path = choose(random, [
        "/",
        "//",
        "/v1/models/%ff",
        "/v1/models/../x",
        "*",
        "/\u0000",
        "http://a/",
        "/é",
        "/metrics?x=%",
        "/v1/" + "a".repeat(9000),
      ]),
  ];
  if (random() < 0.4) choose(random, odd)();
  const lines = Object.entries(headers).map(([name, value]) => `${name}: ${value}\r\n`);
  const head = `${method} ${path} HTTP/1.1\r\n${lines.join("")}\r\n`;
  return new Uint8Array([...new TextEncoder().encode(head), ...bytes]);
}

/** How a client sends a request: at once, slowly, or in part, after which it may close its half of the connection. */
async function exchange(server: Server, request: Uint8Array, random: Random): Promise<string> {
  const { hostname, port } = new URL(server.address);
  using connection = await Deno.connect({ hostname, port: Number(port) });
  let isDone = false;
  const timer = setTimeout(async () => {
    // it waits for the rest of a request, unless it is busy: then it does not answer others either
    await (await fetch(`${server.address}/health`)).text();
    if (!isDone) connection.close();
  }, 2000);
  const writing = (async () => {
    const isWhole = random() < 0.8, end = isWhole ? request.length : random() * request.length;
    const step = random() < 0.9 ? request.length : 1 + end / 5;
    for (let from = 0; from < end; from += step) {
      const part = request.subarray(from, Math.min(end, from + step));
      for (let done = 0; done < part.length;) done += await connection.write(part.subarray(done));
      if (step < request.length) await new Promise((resolve) => setTimeout(resolve, 5));
    }
    if (isWhole && random() < 0.9) return;
    if (random() < 0.5) await connection.closeWrite();
    else connection.close();
  })().catch(() => {}); // the server has closed the connection
  const chunks: Uint8Array[] = [], buffer = new Uint8Array(65_536);
  try {
    for (let n; (n = await connection.read(buffer)) !== null;) chunks.push(buffer.slice(0, n));
  } catch { // closed by one of both
  }
  await writing;
  isDone = true;
  clearTimeout(timer);
  const answer = await new Blob(chunks as Uint8Array<ArrayBuffer>[]).text();
  return answer.replace(/^HTTP\/1\.1 100 Continue\r\n\r\n/, "");
}

/** What is wrong with an answer; undefined if it is typed, or none. */
function faultOf(answer: string): string | undefined {
  if (answer === "") return undefined; // the connection was closed, by the client or since the request is not HTTP
  const [, status, head, body] = /^HTTP\/1\.[01] (\d{3}) ([^]*?)\r\n\r\n([^]*)$/.exec(answer) ?? [];
  if (status === undefined) return "no HTTP";
  if (Number(status) >= 500) return `status ${status}`;
  if (Number(status) < 400) return undefined;
  if (!/application\/json/.test(head!)) return body === "" ? undefined : "an error without a type";
  return /"error":{"message":"[^]+","type":"\w+"/.test(body!) || body === ""
    ? undefined
    : "no error";
}

/** Malformed requests, twenty at a time, beside a stream that they must not affect. */
async function malformed(server: Server, count: number) {
  const plain = { ...requestOf(server, 3), max_tokens: 400, temperature: 0 };
  const alone = await streamed(server, plain);
  const statuses: Record<string, number> = {}, faults: string[] = [];
  let next = 0, disturbed = 0, isDone = false;
  const send = async () => {
    for (let i = next++; i < count; i = next++) {
      const random = randomOf(i), request = malformedRequest(server, random);
      const answer = await exchange(server, request, random), fault = faultOf(answer);
      const status = /^HTTP\/1\.[01] (\d{3})/.exec(answer)?.[1] ?? "closed";
      statuses[status] = (statuses[status] ?? 0) + 1;
      if (fault) faults.push(`${i}: ${fault}: ${answer.slice(0, 300)}`);
    }
  };
  const control = (async () => {
    do if (await streamed(server, plain) !== alone) disturbed++; while (!isDone);
  })();
  await Promise.all(Array.from({ length: 20 }, send));
  isDone = true;
  await control;
  const { status } = await fetch(`${server.address}/health`);
  return {
    count,
    statuses,
    faults: faults.length,
    examples: faults.slice(0, 5),
    disturbed,
    health: status,
    isFree: await becomesFree(server),
  };
}

const LOADS = { streams, leaving, requests, malformed };

const [address, model, load, count] = Deno.args;
console.log(JSON.stringify(
  await LOADS[load as keyof typeof LOADS]({ address: address!, model: model! }, Number(count)),
));
