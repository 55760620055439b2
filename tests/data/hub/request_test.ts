import assert from "node:assert/strict";
import { join } from "node:path";
import { hubFile } from "../../../data/hub/hub.ts";
import { LAUNCHER_VARIABLES } from "../../../distributed/placement.ts";
import { HUB_VARIABLES, hubSettings, request, within } from "../../../data/hub/request.ts";
import { dirname, fromFileUrl } from "../../paths.ts";
import { assertHolds, hubCase, refuse, STORIES } from "./server.ts";

const directory = Deno.makeTempDirSync();
globalThis.addEventListener("unload", () => Deno.removeSync(directory, { recursive: true }));

Deno.test("hubSettings() reads the variables as Python's library does", () => {
  const home = { HOME: "/home/lily" };
  const cases: [Record<string, string>, string][] = [
    [home, "/home/lily/.cache/huggingface/hub"],
    [{ USERPROFILE: "/users/lily" }, "/users/lily/.cache/huggingface/hub"],
    [{ ...home, XDG_CACHE_HOME: "/x" }, "/x/huggingface/hub"],
    [{ ...home, XDG_CACHE_HOME: "/x", HF_HOME: "/hf" }, "/hf/hub"],
    [{ ...home, HF_HOME: "~/hf" }, "/home/lily/hf/hub"],
    [{ ...home, HF_HOME: "/hf", HUGGINGFACE_HUB_CACHE: "/old" }, "/old"],
    [{ ...home, HUGGINGFACE_HUB_CACHE: "/old", HF_HUB_CACHE: "~" }, "/home/lily"],
    [{ HF_HUB_CACHE: "/cache" }, "/cache"],
    [{ ...home, HF_HOME: "" }, "/home/lily/.cache/huggingface/hub"],
  ];
  for (const [environment, cache] of cases) {
    assert.equal(hubSettings(environment).cache, join(cache), JSON.stringify(environment));
  }
  assert.throws(() => hubSettings({}), {
    name: "HubError",
    message: "Cannot find the hub's cache as HOME is not known: set HF_HOME",
  });
  const { endpoint, token, offline } = hubSettings({ HF_HOME: directory });
  assert.deepEqual([endpoint, token, offline], ["https://huggingface.co", undefined, false]);
  const ours = { HF_HOME: directory, HF_ENDPOINT: "http://mirror:8080/hf//", HF_HUB_OFFLINE: "ON" };
  assert.equal(hubSettings(ours).endpoint, "http://mirror:8080/hf");
  assert.equal(hubSettings(ours).offline, true);
  for (
    const [value, expected] of [["1", true], ["on", true], ["Yes", true], ["true", true]]
      .concat([["0", false], ["", false], ["off", false]]) as [string, boolean][]
  ) {
    const settings = hubSettings({ ...home, HF_HUB_OFFLINE: value });
    assert.equal(settings.offline, expected, `HF_HUB_OFFLINE=${value}`);
  }
  for (const HF_ENDPOINT of ["mirror", "ftp://mirror", "file:///etc"]) {
    assert.throws(() => hubSettings({ ...ours, HF_ENDPOINT }), {
      message: /^Cannot reach the hub as HF_ENDPOINT must be .*: current value is \w+/,
    });
  }
});

Deno.test("hubSettings() finds the token in the environment, or where it was saved", () => {
  const saved = join(directory, "token"), elsewhere = join(directory, "other");
  Deno.writeTextFileSync(saved, "hf_saved\n");
  Deno.writeTextFileSync(elsewhere, "hf_other");
  const token = (more: Record<string, string>) =>
    hubSettings({ HF_HOME: directory, ...more }).token;
  assert.equal(token({}), "hf_saved");
  assert.equal(token({ HF_TOKEN: " hf_given\n" }), "hf_given");
  assert.equal(token({ HF_TOKEN_PATH: elsewhere }), "hf_other");
  assert.equal(token({ HF_TOKEN_PATH: "/no/such/file" }), undefined);
  Deno.removeSync(saved);
});

Deno.test("the permissions that allow the network allow the hub's variables and those of all commands", () => {
  const root = dirname(dirname(dirname(dirname(fromFileUrl(import.meta.url)))));
  const { permissions } = JSON.parse(Deno.readTextFileSync(join(root, "deno.json")));
  const sets = Object.values(permissions as Record<string, { net?: unknown; env?: string[] }>)
    .filter(({ net }) => net === true);
  assert.ok(sets.length > 0);
  const names = [...HUB_VARIABLES, ...permissions.files.env];
  assert.deepEqual(sets.map(({ env }) => env), [
    names,
    [...names, ...LAUNCHER_VARIABLES, "LD_LIBRARY_PATH", "TOY_GPU_ADDRESS"], // of trainings on several ranks
    [...names, "TOY_API_KEY"],
  ]);
});

Deno.test("hubFile() waits as long as a busy server asks, or a growing time", async () => {
  await using hub = hubCase(directory);
  const { server, waits, notices } = hub;
  const later = new Date(Date.now() + 90_000).toUTCString();
  const answers = [
    refuse(429, undefined, { "Retry-After": "7" }),
    refuse(503, undefined, { "Retry-After": later }),
    refuse(500),
    refuse(502, undefined, { "Retry-After": "soon" }),
  ];
  server.fault = () => answers.shift();
  await hubFile(STORIES, hub.options);
  assert.equal(waits[0], 7000);
  assert.ok(waits[1]! >= Date.parse(later) - Date.now() && waits[1]! <= 90_000, `${waits[1]}`);
  assert.deepEqual(waits.slice(2), [4000, 8000]);
  assert.match(notices[0]!, /^127\.0\.0\.1:\d+ answers 429: asking again in 7 s$/);
});

Deno.test("hubFile() gives up on a server that fails five times, or asks for too long a wait", async () => {
  await using hub = hubCase(directory);
  const { server, waits } = hub;
  server.fault = () => refuse(500);
  await assert.rejects(hubFile(STORIES, hub.options), {
    name: "HubError",
    message:
      /^Cannot download tiny\/stories\/data\/train.txt as 127\.\S+ answers 500: try again later$/,
  });
  assert.deepEqual(waits, [1000, 2000, 4000, 8000]);
  server.fault = () => refuse(429, undefined, { "Retry-After": "3600" });
  const message = /too many requests \(429\): try again in 3600 s, or set HF_TOKEN$/;
  await assert.rejects(hubFile(STORIES, hub.options), { name: "HubError", message });
  assert.equal(waits.length, 4);
  server.fault = ({ host }) => host === "cdn" ? refuse(403) : undefined;
  await assert.rejects(hubFile(STORIES, hub.options), /as 127\.\S+ answers 403: try again later$/);
});

Deno.test("hubFile() follows redirects, but not without end or to other protocols", async () => {
  await using hub = hubCase(directory);
  const { server } = hub;
  let redirects = 0;
  const to = (location: string, status = 307) =>
    new Response(null, { status, headers: { Location: location } });
  // a repository that was renamed, and a mirror that sends on to the hub
  server.fault = ({ path }) => {
    if (!path.includes("stories") || redirects++ % 3 === 2) return undefined;
    return to(redirects % 3 === 1 ? path : server.endpoint + path);
  };
  const { path } = await hubFile(STORIES, hub.options);
  assertHolds(path, hub.content);
  assert.ok(redirects >= 6);
  for (const location of ["/again", "file:///etc/passwd", "ftp://127.0.0.1/x", "http://"]) {
    server.fault = () => to(location, 302);
    await assert.rejects(
      hubFile({ ...STORIES, path: "other" }, hub.options),
      /^HubError: Cannot download tiny\/stories\/other as 127\S+ redirects (without end|to \S+)$/,
    );
  }
});

/** What `request()` of a hub at https://hub.test comes to when fetch() answers so. */
async function requestWith(answer: (url: string) => Response): Promise<Response> {
  const { fetch } = globalThis;
  globalThis.fetch = (input) => Promise.resolve(answer(String(input)));
  try {
    return await request({
      type: "dataset",
      repo: "tiny/stories",
      ...hubSettings({ HOME: "/home/lily", HF_ENDPOINT: "https://hub.test" }),
      ...{ task: "download it", page: "", revision: "main", onNotice() {}, signal: undefined },
    }, "https://hub.test/0");
  } finally {
    globalThis.fetch = fetch;
  }
}

const redirect = (location: string) =>
  new Response(null, { status: 302, headers: { Location: location } });

Deno.test("request() follows no redirect from https to http", async () => {
  const secure = await requestWith((url) =>
    url === "https://hub.test/0" ? redirect("https://cdn.test/1") : new Response("bytes")
  );
  assert.equal(await secure.text(), "bytes");
  await assert.rejects(
    requestWith((url) =>
      url.startsWith("https:") ? redirect("http://cdn.test/1") : new Response("bytes")
    ),
    /^HubError: Cannot download it as hub\.test redirects to http:\/\/cdn\.test\/1$/,
  );
});

Deno.test("request() follows ten redirects in a row, and no more", async () => {
  const after = (count: number) =>
    requestWith((url) => {
      const done = Number(url.split("/").at(-1));
      return done === count ? new Response("bytes") : redirect(`/${done + 1}`);
    });
  assert.equal(await (await after(10)).text(), "bytes");
  await assert.rejects(
    after(11),
    /^HubError: Cannot download it as hub\.test redirects without end$/,
  );
});

Deno.test("request() follows no Location of an answer that is no redirect", async () => {
  const headers = { Location: "/1" };
  await assert.rejects(requestWith(() => new Response("", { status: 400, headers })), / 400/);
  assert.equal(await (await requestWith(() => new Response("0", { headers }))).text(), "0");
});

Deno.test("request() closes the connection of an answer that it refuses", async () => {
  let closed = 0;
  const body = () => new ReadableStream({ cancel: () => void closed++ });
  await assert.rejects(requestWith(() => new Response(body(), { status: 404 })), /does not exist/);
  assert.equal(closed, 1);
});

Deno.test("within() returns what arrives in time, and throws on silence", async () => {
  assert.equal(await within(Promise.resolve(3)), 3);
  await assert.rejects(within(Promise.reject(new Error("no"))), /no/);
  await assert.rejects(within(new Promise(() => {}), 1), /silent for 1 s/);
});
