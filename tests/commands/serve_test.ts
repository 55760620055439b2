import assert from "node:assert/strict";
import { join } from "node:path";
import { once } from "../once.ts";
import { tinyRun } from "../serve/tiny_run.ts";
import { root, task, tasks } from "./task.ts";

/** A server of this command, once it has printed its address. */
async function start(args: readonly string[], env: Record<string, string> = {}) {
  const words = (tasks["serve"].command as string).split(" ").slice(1);
  const child = new Deno.Command(Deno.execPath(), {
    args: [...words, ...args, "--port", "0"],
    cwd: root,
    env: { INIT_CWD: "", TOY_COMMAND: "", ...env },
    stdout: "piped",
    stderr: "piped",
  }).spawn();
  const [read, watched] = child.stderr.tee(), stderr = new Response(read).text();
  /** Reads stderr up to some words. */
  const said = async (words: string) => {
    let text = "";
    for await (const part of watched.pipeThrough(new TextDecoderStream())) {
      if ((text += part).includes(words)) return;
    }
    assert.fail(text);
  };
  const { value = "" } = await child.stdout.pipeThrough(new TextDecoderStream()).getReader().read();
  const [, address] = /^(http:\/\/127\.0\.0\.1:\d+)\/v1\n$/.exec(value) ?? [];
  assert.ok(address, value === "" ? await stderr : value);
  const ask = (path: string, body?: unknown, headers: Record<string, string> = {}) =>
    fetch(`${address}${path}`, {
      headers: { "content-type": "application/json", ...headers },
      ...body === undefined ? {} : {
        method: "POST",
        body: body instanceof ReadableStream ? body : JSON.stringify(body),
      },
    });
  const end = async (signal: Deno.Signal = "SIGTERM") => {
    child.kill(signal);
    const { code } = await child.status;
    return { code, stderr: await stderr };
  };
  return { address, ask, end, said, child, stderr };
}

const ENDLESS = { model: "default", prompt: "One cat", max_tokens: 16384, temperature: 0 };

const ignore = Deno.build.os === "windows"; // which has neither these signals nor sh

const run = once(async () => `default=${await tinyRun()}`);

Deno.test("serve answers the commands of docs/serve.md, logs no text, and ends with SIGTERM", {
  ignore,
}, async () => {
  const { address, ask, end } = await start(["--run", await run()]);
  const page = Deno.readTextFileSync(join(root, "docs", "serve.md"));
  const commands = [...page.matchAll(/^```sh\n(curl [^]*?)^```$/gm)].map(([, command]) => command!);
  assert.equal(commands.length, 5);
  const answers = [];
  for (const command of commands) {
    const line = command.replace("http://127.0.0.1:8000", address)
      .replace("Who is Tim?", "I"); // whose context has 16 tokens
    const { stdout } = await new Deno.Command("sh", { args: ["-c", line] }).output();
    answers.push(new TextDecoder().decode(stdout));
  }
  const [text, chat, stream, score, models] = answers;
  assert.match(text!, /"object":"text_completion".*"completion_tokens":\d+/);
  assert.match(chat!, /context_length_exceeded/);
  assert.match(stream!, /^data: {"id".*\n\ndata: \[DONE\]\n\n$/s);
  assert.equal(JSON.parse(score!).choices[0].text, "One day");
  assert.equal(JSON.parse(models!).data[0].id, "default");
  await (await ask("/v1/completions", { ...ENDLESS, max_tokens: 1, n: 3 })).text();
  const { code, stderr } = await end();
  assert.equal(code, 0);
  assert.match(stderr, / 3 length\n/);
  assert.match(stderr, /POST \/v1\/completions 200 {2}default \d+\+60 tokens/);
  assert.doesNotMatch(stderr, /Once upon|One day/);
});

Deno.test(
  "serve finishes answers after SIGTERM and refuses new ones; a second signal ends it at once",
  { ignore },
  async () => {
    const drain = ["--drain", "600"]; // as the machine may be busy
    const { ask, child, stderr } = await start(["--run", await run(), "--log-prompts", ...drain]);
    // a first answer, as kernels may be compiled for longer than a body may take
    await (await ask("/v1/completions", { ...ENDLESS, max_tokens: 1 })).text();
    // the server has the head of a request, and its body once it refuses others: it must not end before
    const rest = Promise.withResolvers<string>(),
      body = JSON.stringify({ ...ENDLESS, max_tokens: 3 });
    const parts = [Promise.resolve(body.slice(0, -1)), rest.promise];
    const begun = ask(
      "/v1/completions",
      ReadableStream.from(parts).pipeThrough(new TextEncoderStream()),
    );
    const running = await ask("/v1/completions", { ...ENDLESS, max_tokens: 200, stream: true });
    child.kill("SIGTERM");
    while ((await ask("/health")).status !== 503);
    const refused = await ask("/v1/completions", ENDLESS);
    assert.deepEqual([refused.status, refused.headers.get("retry-after")], [503, "5"]);
    await refused.body!.cancel();
    assert.match(await running.text(), /"finish_reason":"length"}\]}\n\ndata: \[DONE\]\n\n$/);
    rest.resolve("}");
    assert.equal((await (await begun).json()).usage.completion_tokens, 3);
    assert.equal((await child.status).code, 0);
    assert.match(await stderr, /prompt "One cat"\n.* completion "/);
    const other = await start(["--run", await run(), ...drain]);
    const endless = await other.ask("/v1/completions", { ...ENDLESS, stream: true });
    other.child.kill("SIGTERM");
    await other.said("A second signal ends at once."); // signals before are one
    other.child.kill("SIGTERM");
    assert.equal((await other.child.status).signal, "SIGTERM");
    await endless.body!.cancel().catch(() => {});
  },
);

Deno.test("serve ends what is left after --drain with an error", { ignore }, async () => {
  const { ask, end } = await start(["--run", await run(), "--drain", "0"]);
  const endless = await ask("/v1/completions", { ...ENDLESS, stream: true });
  const text = endless.text(); // a reader that reads nothing would not get the error
  text.catch(() => {}); // if it fails, the assertion below says so
  const { code } = await end("SIGINT");
  assert.equal(code, 130);
  assert.match(await text, /"message":"Cannot answer as the server is closed"/);
});

Deno.test("serve asks for the key of the environment, and for one if it listens elsewhere", {
  ignore,
}, async () => {
  const TOY_API_KEY = "a key of many characters";
  const { ask, end } = await start(["--run", await run()], { TOY_API_KEY });
  assert.equal((await ask("/v1/models")).status, 401);
  const authorization = `Bearer ${TOY_API_KEY}`;
  assert.equal((await ask("/v1/models", undefined, { authorization })).status, 200);
  const { stderr } = await end();
  assert.doesNotMatch(stderr, /many characters/);
  const elsewhere = await task("serve", ["--run", await run(), "--host", "0.0.0.0"]);
  assert.deepEqual([elsewhere.code, elsewhere.stderr.split("\n")[0]], [
    1,
    "Error: Cannot serve on 0.0.0.0 as that needs a key, which requests must have",
  ]);
  const short = await task("serve", [], { env: { TOY_API_KEY: "short" } });
  assert.match(short.stderr, /^Error: Cannot serve as TOY_API_KEY must have 16 characters or more/);
  const blank = await task("serve", [], { env: { TOY_API_KEY: " ".repeat(20) } });
  assert.match(blank.stderr, /^Error: Cannot serve as TOY_API_KEY must have printable /);
});

Deno.test("serve says what it cannot serve", async () => {
  const taken = Deno.listen({ hostname: "127.0.0.1", port: 0 }), name = await run();
  const cases: [args: string[], message: RegExp][] = [
    [["--port", `${taken.addr.port}`], /^Error: Cannot serve on 127.0.0.1 as another program uses/],
    [
      ["--run", name, name],
      /^Error: Cannot serve as each model must have its own name: two are named "default"\nGive one another/,
    ],
    [["--cors", "localhost"], /^Error: Cannot serve as --cors must be an origin, such as/],
    [["--allow-host", "box.lan:80"], /^Error: Cannot serve as --allow-host must be a name without/],
  ];
  for (const [args, message] of cases) {
    const { code, stderr } = await task("serve", ["--port", "0", ...args]);
    assert.match(stderr, message);
    assert.equal(code, 1);
  }
  taken.close();
});
