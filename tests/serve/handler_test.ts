import assert from "node:assert/strict";
import { mkdirSync, symlinkSync } from "node:fs";
import { join } from "node:path";
import { createHandler } from "../../serve/handler.ts";
import { type Changes, RunFolders } from "../../serve/run_folders.ts";
import type { RunDetails, RunRow } from "../../serve/run_view.ts";
import type { RunCurves } from "../../serve/watched_run.ts";
import { openRunDirectory } from "../../train/directory/run_directory.ts";
import { directory, exampleFiles, exampleState } from "../checkpoints.ts";
import { evaluation, start, step, steps, writeRecord } from "./records.ts";

const folder = join(directory, "runs");
mkdirSync(folder);
const handler = createHandler({ folders: [folder] });

/** Asks for a path as the page does. */
function ask(
  path: string,
  headers: Record<string, string> = {},
  method = "GET",
): Promise<Response> {
  const host = { host: "127.0.0.1:4242" };
  return handler(
    new Request(`http://127.0.0.1:4242${path}`, { method, headers: { ...host, ...headers } }),
  );
}

async function json<T>(path: string): Promise<T> {
  return await (await ask(path)).json();
}

const rowNamed = async (name: string) =>
  (await json<RunRow[]>("/api/runs")).find((row) => row.name === name);

Deno.test("createHandler() serves the page, its files, and nothing else", async () => {
  const page = await ask("/");
  assert.equal(page.headers.get("content-type"), "text/html; charset=utf-8");
  const assets = [...(await page.text()).matchAll(/(?:src|href)="(\/assets\/[^"]+)"/g)];
  assert.ok(assets.length >= 4);
  for (const [, path] of assets) assert.equal((await ask(path!)).status, 200, path);
  for (const path of ["/assets/../deno.json", "/assets/none.js", "/deno.json", "/api/none"]) {
    assert.equal((await ask(path)).status, 404, path);
  }
  assert.equal((await ask("/api/runs", {}, "POST")).status, 405);
});

Deno.test("createHandler() refuses other hosts and other pages, and names them", async () => {
  const refused: [Record<string, string>, RegExp][] = [
    [{ host: "evil.example:4242" }, /current host is "evil.example:4242"/],
    [{ host: "127.0.0.1.evil.example" }, /current host is "127.0.0.1.evil.example"/],
    [{ host: "" }, /current host is ""/],
    [{ origin: "http://evil.example" }, /current origin is "http:\/\/evil.example"/],
    [{ origin: "http://127.0.0.1:9999" }, /current origin/],
    [{ origin: "null" }, /current origin is "null"/],
    [{ "sec-fetch-site": "cross-site" }, /current sec-fetch-site is "cross-site"/],
    [{ "sec-fetch-site": "same-site", "sec-fetch-mode": "navigate" }, /sec-fetch-site/],
  ];
  for (const [headers, reason] of refused) {
    const response = await ask("/api/runs", headers);
    assert.equal(response.status, 403);
    assert.match((await response.json()).error.message, reason);
  }
  const allowed: Record<string, string>[] = [
    { host: "localhost:1" },
    { host: "[::1]:4242" },
    { origin: "http://127.0.0.1:4242", "sec-fetch-site": "same-origin" },
  ];
  for (const headers of allowed) assert.equal((await ask("/api/runs", headers)).status, 200);
  const link = { "sec-fetch-site": "cross-site", "sec-fetch-mode": "navigate" };
  assert.equal((await ask("/", link)).status, 200, "a link on another page opens the page");
});

Deno.test("createHandler() refuses a host that makes no URL", async () => {
  const hostname = "127.0.0.1";
  await using server = Deno.serve({ hostname, port: 0, onListen: () => {} }, handler);
  using connection = await Deno.connect({ hostname, port: server.addr.port });
  const request = "GET / HTTP/1.1\r\nHost: localhost:99999\r\nConnection: close\r\n\r\n";
  await connection.write(new TextEncoder().encode(request));
  const answer = await new Response(connection.readable).text();
  assert.match(answer, /^HTTP\/1\.1 403 .*current host is \\"localhost:99999\\"/s);
});

Deno.test("createHandler() lets the page load nothing from elsewhere, and no other page load it", async () => {
  for (const path of ["/", "/assets/main.js", "/api/runs", "/none"]) {
    const { headers } = await ask(path);
    assert.match(
      headers.get("content-security-policy")!,
      /^default-src 'none'; script-src 'self';/,
    );
    assert.doesNotMatch(headers.get("content-security-policy")!, /unsafe|http|\*/);
    assert.equal(headers.get("cross-origin-resource-policy"), "same-origin");
    assert.equal(headers.get("access-control-allow-origin"), null);
    assert.equal(headers.get("x-content-type-options"), "nosniff");
  }
});

Deno.test("/api/runs says of each run how far it is and in which state", async () => {
  const states = join(folder, "states");
  const write = (name: string, lines: string[]) => writeRecord(join(states, name), lines);
  write("finished", [start(2), step(1), step(2), evaluation(2)]);
  write("stopped", [start(9), step(1), '{"kind":"end","step":1,"reason":"interrupted"}']);
  write("killed", [start(9), step(1)]);
  write("patient", [start(9), step(1), '{"kind":"end","step":1,"reason":"patience"}']);
  write("failed", [start(9), step(1), '{"kind":"end","step":1,"reason":"error","message":"no!"}']);
  write("diverged", [start(9), step(1), evaluation(1, null)]);
  write("noise", ["\u0000\u0001", "{"]);
  write("resumed", [start(9), '{"kind":"end","step":0,"reason":"steps"}', start(9), step(1)]);
  mkdirSync(join(states, "no-run"));
  mkdirSync(join(states, "cache", "a"), { recursive: true });
  Deno.writeTextFileSync(join(states, "cache", "a", "lock"), "");
  const training = openRunDirectory(join(states, "training"));
  try {
    const rows = await json<RunRow[]>("/api/runs");
    const found = rows.filter(({ name }) => name.startsWith("states/"))
      .map(({ name, state, reason }) => [name.slice(7), state, reason]).sort();
    assert.deepEqual(found, [
      ["diverged", "broken", "its loss is not finite"],
      ["failed", "broken", "no!"],
      ["finished", "finished", null],
      ["killed", "interrupted", null],
      ["noise", "broken", "its record is empty"],
      ["patient", "finished", "the validation loss did not improve"],
      ["resumed", "interrupted", null],
      ["stopped", "interrupted", null],
      ["training", "training", null],
    ]);
  } finally {
    training.close();
  }
  const row = await rowNamed("states/finished");
  assert.deepEqual(row, {
    name: "states/finished",
    state: "finished",
    reason: null,
    step: 2,
    steps: 2,
    loss: 0.5,
    validation: { step: 2, loss: 1 },
    tokensPerSecond: 160,
    parameters: 1000,
    device: "a device",
    memoryBytes: 2e6,
    time: "2026-01-01T10:00:02.000Z",
  });
});

Deno.test("/api/run has options, checkpoints, samples and warnings of a run", async () => {
  const path = join(folder, "whole");
  const run = openRunDirectory(path);
  run.append(
    "metrics.jsonl",
    [
      start(4, { learningRate: 0.5, endsWith: "steps" }),
      ...steps(4),
      evaluation(2, 3),
      evaluation(4, 4),
      '{"kind":"warning","step":4,"name":"overfitting","message":"It memorizes."}',
      '{"kind":"sample","step":4,"prompt":"<b>","text":"x"}',
    ].join("\n"),
  );
  run.save(exampleFiles("one"), exampleState(2), { keep: 9, best: true });
  run.save(exampleFiles("two"), exampleState(4), { keep: 9, best: false });
  run.close();
  const details = await json<RunDetails>("/api/run?run=whole");
  assert.deepEqual(
    details.checkpoints.map(({ step, isBest, isLatest }) => [step, isBest, isLatest]),
    [
      [2, true, false],
      [4, false, true],
    ],
  );
  assert.ok(details.checkpoints.every(({ bytes }) => bytes > 100));
  const { best, warnings } = await json<RunCurves>("/api/curves?run=whole");
  assert.deepEqual(best, { step: 2, loss: 3 });
  assert.deepEqual(warnings, [{ step: 4, name: "overfitting" }]);
  assert.deepEqual(details.samples, [{ step: 4, prompt: "<b>", text: "x" }]);
  assert.ok(details.options.some(([flag, value]) => flag === "--learning-rate" && value === 0.5));
  assert.ok(!details.options.some(([flag]) => flag === "--ends-with"), "no option of train");
  assert.deepEqual([details.problems, details.hasChatTemplate], [[], true]);
});

Deno.test("records of earlier versions, without options and times, get them from checkpoints and the file", async () => {
  const path = join(folder, "old"), run = openRunDirectory(path);
  run.append(
    "metrics.jsonl",
    [
      '{"kind":"start","step":0}',
      '{"kind":"step","step":1,"loss":3,"tokensPerSecond":160}',
      '{"kind":"step","step":2,"loss":2,"tokensPerSecond":160}',
    ].join("\n"),
  );
  const options = { batchSize: 2, contextLength: 8, gradientAccumulation: 1, steps: 2 };
  run.save(exampleFiles("one"), { ...exampleState(2), options }, { keep: 9, best: true });
  run.close();
  const { steps, state, time } = (await rowNamed("old"))!;
  assert.deepEqual([steps, state], [2, "finished"]);
  assert.ok(Math.abs(Date.parse(time!) - Date.now()) < 3_600_000, `${time}`);
  const { tokensPerStep, curves } = await json<RunCurves>("/api/curves?run=old");
  assert.equal(tokensPerStep, 16);
  assert.deepEqual(curves["step.loss"]!.seconds, [0.1, 0.2]);
});

Deno.test("/api/curves has every figure of the record, and afterwards what was appended", async () => {
  const path = writeRecord(join(folder, "growing"), [start(), ...steps(10), evaluation(10)]);
  const first = await json<RunCurves>("/api/curves?run=growing");
  assert.ok(first.isComplete && !first.isAppended);
  assert.deepEqual(
    first.curves["step.loss"]!.value,
    steps(10).map((line) => JSON.parse(line).loss),
  );
  const known = new URLSearchParams({
    run: "growing",
    generation: first.generation,
    step: "10",
    evaluation: "10",
  });
  Deno.writeTextFileSync(path, `${step(11, 7)}\n${evaluation(11, 8)}\n`, { append: true });
  const next = await json<RunCurves>(`/api/curves?${known}`);
  assert.ok(next.isAppended);
  assert.deepEqual(next.curves["step.loss"]!.value, [7]);
  assert.deepEqual(next.curves["evaluation.loss"]!.value, [8]);
  writeRecord(join(folder, "growing"), [start(), step(1, 5)]);
  const anew = await json<RunCurves>(`/api/curves?${known}`);
  assert.ok(!anew.isAppended);
  assert.deepEqual(anew.curves["step.loss"]!.value, [5]);
});

Deno.test("/api/differences compares the options of runs", async () => {
  writeRecord(join(folder, "fast"), [start(9, { learningRate: 0.1, out: "runs/fast" }), step(1)]);
  writeRecord(join(folder, "slow"), [start(9, { learningRate: 0.01, out: "runs/slow" }), step(1)]);
  const rows = await json<[string, string[]][]>("/api/differences?run=fast&run=slow");
  assert.deepEqual(rows, [["--learning-rate", ["0.1", "0.01"]]]);
});

Deno.test("createHandler() shows runs of several folders by their paths, each once, no others, and a run alone by its name", async () => {
  const parent = join(directory, "several"),
    [a, b, c] = ["a", "b", "c/d"].map((name) => join(parent, name));
  for (const run of [a!, b!, c!]) writeRecord(run, [start(), step(1)]);
  const absent = join(parent, "absent");
  const handler = createHandler({ folders: [`${a}/`, join(parent, "c"), c!, absent] });
  const ask = (path: string) =>
    handler(new Request(`http://127.0.0.1${path}`, { headers: { host: "127.0.0.1" } }));
  const rows: RunRow[] = await (await ask("/api/runs")).json();
  assert.deepEqual(rows.map(({ name }) => name).sort(), [a, c]);
  assert.equal((await ask(`/api/run?run=${encodeURIComponent(a!)}`)).status, 200);
  assert.equal((await ask(`/api/run?run=${encodeURIComponent(b!)}`)).status, 404);
  for (const path of [b!, `${b}/`]) {
    assert.deepEqual(new RunFolders([path]).rows().map(({ name }) => name), ["b"], path);
  }
});

Deno.test("createHandler() knows only runs below its folder, and follows no link to a directory", async () => {
  const outside = join(directory, "outside");
  writeRecord(outside, [start(), step(1)]);
  symlinkSync(outside, join(folder, "link"), "dir");
  symlinkSync(folder, join(folder, "circle"), "dir");
  for (const name of ["../outside", "link", "circle/whole", "", "/etc", "a\0b"]) {
    const query = new URLSearchParams({ run: name });
    for (const route of ["run", "curves"]) {
      const response = await ask(`/api/${route}?${query}`);
      assert.equal(response.status, 404, name);
      assert.match((await response.json()).error.message, /^Cannot find run /);
    }
  }
  assert.equal(await rowNamed("link"), undefined);
});

Deno.test("createHandler() shows hostile names and damaged runs as they are", async () => {
  const isWindows = Deno.build.os === "windows"; // where names have neither < nor >
  const name = isWindows ? "&lt;&" : '<img src=x onerror="alert(1)">&';
  writeRecord(join(folder, name), [start(9, { preset: "</script><b>" }), step(1)]);
  const query = new URLSearchParams({ run: name });
  assert.equal((await json<RunDetails>(`/api/run?${query}`)).name, name);
  for (
    const [i, options] of [null, 7, "text", [1], {
      steps: {},
      batchSize: { valueOf: 1, toString: 1 },
    }].entries()
  ) {
    const end = {
      kind: "end",
      step: 1,
      reason: ["error", "constructor"][i % 2],
      message: { a: 1 },
    };
    const line = { ...JSON.parse(start()), options, device: [], time: 5 };
    writeRecord(
      join(folder, `odd-${i}`),
      [line, JSON.parse(step(1)), end].map((line) => JSON.stringify(line)),
    );
    for (const route of ["run", "curves"]) {
      assert.equal((await ask(`/api/${route}?run=odd-${i}`)).status, 200, `${route} of ${options}`);
    }
    assert.equal((await ask(`/api/differences?run=odd-${i}&${query}`)).status, 200);
    assert.match((await rowNamed(`odd-${i}`))!.state, /broken|finished/);
  }
  const damaged = join(folder, "damaged");
  mkdirSync(join(damaged, "checkpoints", "000003"), { recursive: true });
  Deno.writeTextFileSync(join(damaged, "checkpoints", "000003", "trainer_state.json"), "{");
  mkdirSync(join(damaged, "metrics.jsonl"));
  const details = await json<RunDetails>("/api/run?run=damaged");
  assert.equal(details.state, "broken");
  assert.ok(details.problems.some((problem) => problem.includes("trainer_state.json")));
  if (isWindows) return; // where links need a privilege
  for (const name of ["metrics.jsonl", "checkpoints"]) {
    const loop = join(folder, `loop of ${name}`);
    mkdirSync(loop);
    Deno.writeTextFileSync(join(loop, "lock"), "");
    if (name === "metrics.jsonl") mkdirSync(join(loop, "checkpoints"));
    else Deno.writeTextFileSync(join(loop, "metrics.jsonl"), "");
    Deno.symlinkSync(name, join(loop, name));
    assert.equal((await rowNamed(`loop of ${name}`))!.state, "broken");
  }
});

Deno.test("/api/events says which runs change, appear and vanish, and ends with its signal", async () => {
  const live = join(directory, "live"), abort = new AbortController();
  const path = writeRecord(join(live, "a"), [start(), step(1)]);
  const handler = createHandler({ folders: [live], signal: abort.signal });
  const response = await handler(
    new Request("http://localhost/api/events", { headers: { host: "localhost" } }),
  );
  assert.equal(response.headers.get("content-type"), "text/event-stream");
  const reader = response.body!.pipeThrough(new TextDecoderStream()).getReader();
  const next = async (): Promise<Changes> => {
    for (;;) {
      const { value = "", done } = await reader.read();
      assert.ok(!done);
      if (value.startsWith("data: ")) return JSON.parse(value.slice(6));
    }
  };
  await next(); // the first look makes all rows
  Deno.writeTextFileSync(path, `${step(2, 9)}\n`, { append: true });
  const { rows } = await next();
  assert.deepEqual(rows.map(({ name, step, loss }) => [name, step, loss]), [["a", 2, 9]]);
  abort.abort();
  assert.ok((await reader.read()).done);
});
