/// <reference lib="dom" />
/// <reference lib="dom.iterable" />
import assert from "node:assert/strict";
import { mkdirSync, symlinkSync } from "node:fs";
import { join } from "node:path";
import {
  type Browser,
  hasCurve,
  openBrowser,
  type Page,
  type PageOptions,
} from "../../bench/browser.ts";
import { createHandler } from "../../serve/handler.ts";
import { RunFolders } from "../../serve/run_folders.ts";
import { readAll, savedPage } from "../../serve/saved_page.ts";
import { directory } from "../checkpoints.ts";
import { root, tasks } from "../commands/task.ts";
import { evaluation, start, step, writeRecord } from "./records.ts";

/**
 * Tests of the page in a browser. `page_test.ts` runs this file with the permissions that a browser needs.
 */

/** What axe-core finds on a page. */
interface Violation {
  readonly id: string;
  readonly impact: string;
  readonly nodes: readonly { readonly html: string }[];
}

const folder = join(directory, "runs"), hostile = join(directory, "hostile");
const HTML = '<img src="http://evil.example/x" onerror="document.title=\'hacked\'">';
const losses = Array.from({ length: 300 }, (_, i) => 5 * Math.exp(-i / 60) + 1 + Math.sin(i) / 9);
const record = (seed: number) => [
  start(300, { seed, learningRate: seed / 100 }),
  ...losses.flatMap((loss, i) => [
    step(i + 1, loss + seed),
    ...((i + 1) % 50 === 0
      ? [
        evaluation(i + 1, loss + seed + 0.1),
        JSON.stringify({
          kind: "sample",
          step: i + 1,
          prompt: "Once",
          text: ` at ${i + 1} ${HTML}`,
        }),
      ]
      : []),
  ]),
  '{"kind":"warning","step":300,"name":"overfitting","message":"the text is learned by heart"}',
  '{"kind":"end","step":300,"reason":"steps"}',
];
writeRecord(join(folder, "one"), record(1));
writeRecord(join(folder, "deep", "two"), record(2));

const browser: Browser = await openBrowser();
const servers: Deno.HttpServer<Deno.NetAddr>[] = [];
const abort = new AbortController();

function serve(folder: string): string {
  const handler = createHandler({ folders: [folder], signal: abort.signal });
  const server = Deno.serve({ hostname: "127.0.0.1", port: 0, onListen: () => {} }, handler);
  servers.push(server);
  return `http://127.0.0.1:${server.addr.port}/`;
}
const address = serve(folder);

/** Opens a page, calls a function with it, and makes sure that it made no request elsewhere and no error. */
async function withPage(
  url: string,
  options: PageOptions,
  action: (page: Page) => Promise<void>,
): Promise<void> {
  const page = await browser.newPage({ viewport: { width: 1280, height: 900 }, ...options });
  const elsewhere: string[] = [], errors: string[] = [];
  const own = new URL(url);
  page.on("request", (request: { url(): string }) => {
    const { protocol, host } = new URL(request.url());
    if (protocol !== "data:" && (protocol !== own.protocol || host !== own.host)) {
      elsewhere.push(request.url());
    }
  });
  page.on("pageerror", (error: Error) => errors.push(error.message));
  page.on("console", (message: { type(): string; text(): string }) => {
    if (message.type() === "error") errors.push(message.text());
  });
  try {
    await page.goto(url);
    await drawn(page);
    await action(page);
    assert.deepEqual(elsewhere, []);
    assert.deepEqual(errors, []);
  } finally {
    await page.close();
  }
}

/** Waits until a page shows curves and details. */
async function drawn(page: Page): Promise<void> {
  await page.waitForFunction(hasCurve);
  await page.waitForFunction(() => document.querySelector("#details-body")!.children.length > 0);
}

const textOf = (page: Page, selector: string) => page.locator(selector).first().innerText();

/** What the page says of the options that differ, when it has read them. */
async function differences(page: Page): Promise<string> {
  await page.waitForFunction(() => document.querySelector("#differences-body")!.textContent);
  return await textOf(page, "#differences");
}

Deno.test("the page draws runs, and its figures are those of the files", async () => {
  await withPage(address, {}, async (page) => {
    assert.deepEqual(
      (await page.locator("#run-list .name").allInnerTexts()).sort(),
      ["deep/two", "one"],
    );
    await page.locator('#run-list li:has(bdi:text-is("one")) input').first().focus();
    if (!(await page.evaluate(() => location.hash)).includes("run=one")) {
      await page.keyboard.press("Space");
    }
    await page.locator("#chart-loss summary").click();
    await page.waitForFunction(() =>
      document.querySelector("#chart-loss")!.textContent!.includes("Loss of one")
    );
    const rows = await page.evaluate(() =>
      [...document.querySelectorAll("#chart-loss table")].map((table) => ({
        caption: table.querySelector("caption")!.textContent!,
        rows: [...table.querySelectorAll("tbody tr")].map((row) =>
          [...row.children].map((cell) => cell.textContent!)
        ),
      }))
    );
    const table = rows.find(({ caption }) => caption === "Loss of one")!;
    assert.ok(table.rows.length > 40, `${table.rows.length}`);
    for (const [step, training, validation] of table.rows) {
      const loss = losses[Number(step) - 1]! + 1;
      assert.equal(training, `${loss}`);
      if (Number(step) % 50 === 0) assert.equal(validation, `${loss + 0.1}`);
    }
    assert.match(await textOf(page, "#facts"), /300\/300/);
    assert.match(await textOf(page, "#facts"), new RegExp(`${(losses[299]! + 1).toPrecision(5)}`));
  });
});

Deno.test("a link leads to the runs, axis, smoothing and scale that it names", async () => {
  const link = `${address}#run=one&run=deep%2Ftwo&x=tokens&smoothing=0.5&log=0`;
  await withPage(link, {}, async (page) => {
    const shown = await page.evaluate(() => [
      document.querySelectorAll("#facts tbody tr").length,
      document.querySelector<HTMLInputElement>("input[name=axis]:checked")!.value,
      document.querySelector<HTMLInputElement>("#smoothing")!.value,
      document.querySelector<HTMLInputElement>("#log")!.checked,
    ]);
    assert.deepEqual(shown, [2, "tokens", "0.5", false]);
    assert.match(await differences(page), /--learning-rate\s+0.01\s+0.02/);
  });
});

Deno.test("the page can be used with the keyboard alone", async () => {
  await withPage(`${address}#run=one`, {}, async (page) => {
    const focused = () =>
      page.evaluate(() => {
        const { id, className, parentElement } = document.activeElement!;
        return id || className || parentElement!.className;
      });
    const tabTo = async (name: string) => {
      for (let i = 0; i < 40; i++) {
        await page.keyboard.press("Tab");
        if (await focused() === name) return;
      }
      assert.fail(`Tab does not reach ${name}`);
    };
    await page.keyboard.press("Tab");
    assert.equal(await focused(), "skip");
    await tabTo("filter");
    await page.keyboard.type("two");
    assert.deepEqual(await page.locator("#run-list .name").allInnerTexts(), ["deep/two"]);
    await tabTo("run");
    await page.keyboard.press("Space");
    await page.waitForFunction(() => document.querySelectorAll("#facts tbody tr").length === 2);
    await page.evaluate(() =>
      document.querySelector<HTMLInputElement>("input[name=axis]")!.focus()
    );
    await page.keyboard.press("ArrowRight");
    assert.match(await page.evaluate(() => location.hash), /x=tokens/);
    await tabTo("plot");
    const value = () =>
      page.evaluate(() => document.activeElement!.getAttribute("aria-valuetext")!);
    const reads = (beginning: string) =>
      page.waitForFunction(
        (beginning: string) =>
          document.activeElement!.getAttribute("aria-valuetext")!.startsWith(beginning),
        beginning,
      );
    await reads("last: one: training"); // the other run is drawn
    await page.keyboard.press("Home");
    await reads("tokens 16:");
    await page.keyboard.press("ArrowRight");
    await reads("tokens 32:");
    const second = Number(losses[1]!.toPrecision(9)) + 1;
    assert.ok((await value()).includes(`training ${Number(second.toPrecision(5))}`), await value());
    await tabTo("sample-step");
    await page.keyboard.press("Home");
    assert.match(await textOf(page, ".story"), /at 50 /);
  });
});

Deno.test("the page fits 360 pixels, and is dark if the system is", async () => {
  const phone = { viewport: { width: 360, height: 740 }, colorScheme: "dark" } as const;
  await withPage(`${address}#run=one&run=deep%2Ftwo`, phone, async (page) => {
    await page.evaluate(() =>
      document.querySelectorAll("details").forEach((details) => details.open = true)
    );
    await page.waitForFunction(() => document.querySelectorAll(".figures table").length > 5);
    const [width, background] = await page.evaluate(() => [
      document.documentElement.scrollWidth,
      getComputedStyle(document.body).backgroundColor,
    ]);
    assert.equal(width, 360);
    assert.equal(background, "rgb(13, 17, 23)");
  });
});

Deno.test("axe-core finds nothing serious on the page", async () => {
  const specifier: string = "npm:axe-core@4.14.1";
  const { source } = (await import(specifier)).default as { source: string };
  for (const colorScheme of ["light", "dark"] as const) {
    await withPage(`${address}#run=one&run=deep%2Ftwo`, { colorScheme }, async (page) => {
      await page.evaluate(() =>
        document.querySelectorAll<HTMLDetailsElement>("#chart-loss details, #runs-panel")
          .forEach((details) => details.open = true)
      );
      await page.evaluate(source);
      const { violations } = await page.evaluate<{ violations: Violation[] }>(
        "axe.run(document, { resultTypes: ['violations'] })",
      );
      const serious = violations.filter(({ impact }) => /serious|critical/.test(impact))
        .map(({ id, nodes }) => `${id}: ${nodes.map(({ html }) => html).slice(0, 3).join(" ")}`);
      assert.deepEqual(serious, []);
    });
  }
});

const ignore = Deno.build.os === "windows"; // where no file can have such a name
Deno.test("what others wrote into a run is shown as text", { ignore }, async () => {
  writeRecord(join(hostile, HTML.replaceAll("/", "")), [
    start(9, { preset: HTML }),
    step(1, 2),
    "{",
    step(2, null),
    evaluation(2, 1),
    JSON.stringify({ kind: "sample", step: 2, prompt: HTML, text: `</script>${HTML}` }),
    JSON.stringify({ kind: "warning", step: 2, name: HTML, message: HTML }),
  ]);
  writeRecord(join(hostile, "a\u202eb\u0007"), [start(9), step(1, 2)]);
  mkdirSync(join(hostile, "broken", "metrics.jsonl"), { recursive: true });
  symlinkSync(hostile, join(hostile, "circle"), "dir");
  await new Deno.Command("mkfifo", { args: [join(hostile, "pipe")] }).output().catch(() => {});
  const address = serve(hostile);
  await withPage(address, {}, async (page) => {
    await page.locator("#select-shown").click();
    await page.waitForFunction(() => document.querySelectorAll("#facts tbody tr").length === 3);
    const names = await page.locator("#run-list .name").allInnerTexts();
    assert.ok(names.includes("a\\u{202e}b\\u{7}"), names.join());
    const [images, title, story] = await page.evaluate(() => [
      document.images.length,
      document.title,
      document.querySelector(".story")!.textContent,
    ]);
    assert.equal(images, 0);
    assert.doesNotMatch(`${title}`, /^hacked/);
    assert.equal(story, `${HTML}</script>${HTML}`);
    assert.match(await textOf(page, "#details-body"), /1 line/);
  });
});

Deno.test("a saved page shows the same without a server", async () => {
  const file = join(directory, "saved.html");
  Deno.writeTextFileSync(file, savedPage(await readAll(new RunFolders([folder]))));
  await withPage(`file://${file}#run=one&run=deep%2Ftwo`, {}, async (page) => {
    assert.match(await differences(page), /--learning-rate\s+0.01\s+0.02/);
    assert.equal(await page.locator("#playground-panel").isVisible(), false);
    assert.match(await textOf(page, ".story"), /at 300 <img/);
  });
  await withPage(`file://${file}`, {}, async (page) => {
    assert.equal(
      await page.locator("#runs-panel :checked").count(),
      new RunFolders([folder]).rows().length,
    );
  });
});

Deno.test("the page follows a training, which does not notice it", async () => {
  const live = join(directory, "live"), address = serve(live);
  const page = await browser.newPage();
  try {
    await page.goto(address);
    await page.waitForFunction(() => /no runs yet/.test(document.body.innerText));
    const options =
      "--layers 1 --width 16 --heads 2 --batch-size 4 --context-length 16 --tune off " +
      "--steps 100000 --eval-every 0 --save-every 0 --sample-every 0";
    const words = (tasks["train"].command as string).split(" ").slice(1);
    const training = new Deno.Command(Deno.execPath(), {
      args: [...words, ...options.split(" "), "--out", join(live, "tiny")],
      cwd: root,
      env: { INIT_CWD: "", TOY_COMMAND: "" },
      stderr: "piped",
    }).spawn();
    const seen = new Set<number>();
    let hasEnded = false;
    training.status.then(() => hasEnded = true);
    while (seen.size < 3 && !hasEnded) {
      const [, step] = /training\s+([\d,]+)\/100,000/.exec(await textOf(page, "#runs-panel")) ?? [];
      if (step !== undefined) seen.add(Number(step.replaceAll(",", "")));
      await new Promise((resolve) => setTimeout(resolve, 100));
    }
    assert.deepEqual([...seen], [...seen].sort((a, b) => a - b));
    if (!hasEnded) {
      await page.waitForFunction(() =>
        /time left/.test(document.querySelector("#facts")!.textContent!)
      );
      training.kill("SIGINT");
    }
    const { code, stderr } = await training.output();
    assert.equal(code, 130, new TextDecoder().decode(stderr)); // it ends as it does unwatched
    await page.waitForFunction(() =>
      /interrupted/.test(document.querySelector("#facts")!.textContent!)
    );
    await drawn(page);
    await page.waitForFunction(() =>
      document.querySelector("#details-body")!.textContent!.includes("Checkpoints")
    );
    const lines = Deno.readTextFileSync(join(live, "tiny", "metrics.jsonl")).trim().split("\n");
    const metrics = lines.map((line) => JSON.parse(line));
    const last = metrics.findLast(({ kind }) => kind === "step");
    assert.equal(metrics.at(-1).reason, "interrupted", new TextDecoder().decode(stderr));
    const shown = Number(Number(last.loss).toPrecision(last.loss >= 1 ? 5 : 4));
    assert.ok((await textOf(page, "#facts")).includes(`${shown}`));
    assert.match(await textOf(page, "#announcer"), /^tiny: interrupted/);
  } finally {
    await page.close();
  }
});

Deno.test("the browser and the servers end", async () => {
  await browser.close();
  abort.abort();
  for (const server of servers) await server.shutdown();
  assert.ok(servers.length > 1);
});
