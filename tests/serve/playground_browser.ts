/// <reference lib="dom" />
/// <reference lib="dom.iterable" />
import assert from "node:assert/strict";
import { openBrowser, type PageOptions } from "../../bench/browser.ts";
import { createHandler } from "../../serve/handler.ts";
import { directory } from "../checkpoints.ts";
import { chatRun, tinyRun } from "./tiny_run.ts";

/**
 * Tests of the playground in a browser. `page_test.ts` runs this file with the permissions that a browser needs.
 */

await tinyRun();
await chatRun();
const browser = await openBrowser(), ended = new AbortController();
const server = Deno.serve(
  { hostname: "127.0.0.1", port: 0, onListen: () => {} },
  createHandler({ folders: [directory], signal: ended.signal }),
);
const address = `http://127.0.0.1:${server.addr.port}/`;

/** A prompt that would change the title if it were markup. */
const PROMPT = `One <img src="/x" onerror="document.title='hacked'">`;

/** Opens the playground, and makes sure that the page made no request elsewhere and no error. */
async function withPlayground(
  options: PageOptions & { run?: string },
  action: (page: Awaited<ReturnType<typeof open>>) => Promise<void>,
) {
  const page = await open(options);
  try {
    await action(page);
    assert.deepEqual(page.errors, []);
  } finally {
    await page.close();
  }
}

async function open({ run = "tiny", ...options }: PageOptions & { run?: string }) {
  const page = await browser.newPage({ viewport: { width: 1280, height: 900 }, ...options });
  const errors: string[] = [];
  page.on("request", (request: { url(): string }) => {
    if (!request.url().startsWith(address)) errors.push(request.url());
  });
  page.on("pageerror", (error: Error) => errors.push(error.message));
  page.on("console", (message: { type(): string; text(): string }) => {
    if (message.type() === "error") errors.push(message.text());
  });
  await page.goto(`${address}#run=${run}`);
  await page.waitForFunction(() => document.querySelector("#details-body")!.children.length > 0);
  await page.locator("#playground-panel > summary").focus();
  await page.keyboard.press("Enter");
  await page.waitForFunction(() =>
    document.querySelector<HTMLInputElement>("#playground input[name=top_p]")?.value
  );
  const panelsAreReady = () =>
    page.waitForFunction(() =>
      [...document.querySelectorAll("#playground .panel-content")]
        .every((panel) => panel.querySelector("table") && !panel.ariaBusy)
    );
  const inside = (selector: string) => page.locator(`#playground ${selector}`);
  return {
    ...{ errors, inside, keyboard: page.keyboard },
    evaluate: page.evaluate.bind(page) as typeof page.evaluate,
    waitForFunction: page.waitForFunction.bind(page) as typeof page.waitForFunction,
    close: () => page.close(),
    /** Writes the prompt, sets settings, and waits until as many tokens are on the page as are drawn. */
    async generate(settings: Record<string, number>, prompt = PROMPT) {
      for (const [name, value] of Object.entries(settings)) {
        await inside(`input[name=${name}]`).fill(`${value}`);
      }
      await inside("textarea").fill(prompt);
      await page.keyboard.press("Control+Enter");
      await page.waitForFunction(() => document.querySelector("#playground [role=option]"));
    },
    status: () => inside("[role=status]").innerText(),
    async openPanels() {
      await page.evaluate(() =>
        document.querySelectorAll("#playground details").forEach((details) =>
          (details as HTMLDetailsElement).open = true
        )
      );
      await panelsAreReady();
    },
    panelsAreReady,
  };
}

async function ask(path: string, body: object) {
  const response = await fetch(`${address}${path}`, {
    method: "POST",
    headers: { "content-type": "application/json" },
    body: JSON.stringify({ model: "tiny@6", ...body }),
  });
  return await response.json();
}

const SETTINGS = { n: 2, max_tokens: 12, seed: 3 };

Deno.test("the playground generates, colours tokens by probability, and its figures are the server's", async () => {
  await withPlayground({}, async (page) => {
    await page.generate(SETTINGS);
    assert.match(await page.status(), /^tiny@6: \d+ tokens in/);
    const { choices } = await ask("v1/completions", {
      ...SETTINGS,
      prompt: PROMPT,
      temperature: 0.8,
      top_p: 0.95,
      return_token_ids: true,
    });
    const shown = await page.evaluate(() =>
      [...document.querySelectorAll("#playground article")].map((card) => ({
        text: card.querySelector(".visually-hidden")!.textContent,
        labels: [...card.querySelectorAll("[role=option]")].map(({ ariaLabel }) => ariaLabel),
        levels: new Set([...card.querySelectorAll("[role=option]")].map(({ className }) =>
          className
        ))
          .size,
      }))
    );
    assert.equal(shown.length, 2);
    for (const [i, { prompt_token_ids, token_ids }] of choices.entries()) {
      const ids = [...prompt_token_ids, ...token_ids];
      const { tokens, predictions } = await ask("api/inspect/predictions", { ids });
      assert.equal(shown[i]!.text, tokens.map(({ piece }: { piece: string }) => piece).join(""));
      assert.equal(shown[i]!.labels.length, ids.length);
      assert.ok(shown[i]!.levels > 1);
      for (const [t, label] of shown[i]!.labels.entries()) {
        if (t === 0) continue;
        const { probability, rank } = predictions[t - 1].next;
        assert.ok(label!.includes(`rank ${rank}`), `${label}: ${rank}`);
        const [, percent] = /, (< 0\.01|[\d.]+) %/.exec(label!)!;
        if (percent!.startsWith("<")) assert.ok(probability < 1e-4);
        else assert.ok(Math.abs(100 * probability - Number(percent)) <= 0.0501, label!);
      }
    }
    assert.equal(await page.evaluate(() => document.querySelectorAll("#playground img").length), 0);
    assert.doesNotMatch(await page.evaluate(() => document.title), /hacked/);
  });
});

Deno.test("the playground asks a run that was trained on conversations in its chat format", async () => {
  await withPlayground({ run: "chat" }, async (page) => {
    assert.equal(await page.inside("label[for$=prompt]").innerText(), "Message");
    assert.equal(await page.inside("textarea").inputValue(), "Tell me a story.");
    await page.generate({ ...SETTINGS, n: 1 }, "One");
    assert.match(await page.status(), /^chat@6: \d+ tokens in/);
    const { choices: [{ message }] } = await ask("v1/chat/completions", {
      ...{ ...SETTINGS, n: 1, model: "chat@6", temperature: 0.8, top_p: 0.95 },
      messages: [{ role: "user", content: "One" }],
    });
    const [text] = await page.evaluate(() =>
      [...document.querySelectorAll("#playground .visually-hidden")].map((prose) =>
        prose.textContent
      )
    );
    assert.equal(text, `uOnea${message.content}`);
  });
});

Deno.test("the alternatives of a token are shown by the mouse and by the keyboard", async () => {
  await withPlayground({}, async (page) => {
    await page.generate(SETTINGS);
    const tooltip = () =>
      page.evaluate(() =>
        document.querySelector<HTMLElement>("#playground [role=tooltip]:not([hidden])")?.innerText
      );
    const described = () =>
      page.evaluate(() => document.querySelector("#playground [aria-describedby]")?.ariaLabel);
    assert.equal(await tooltip(), undefined);
    await page.inside("article:nth-child(2) [role=option]:nth-child(4)").hover();
    assert.match((await tooltip())!, /^“.*”: .* %, rank \d+\s+(“[^\n]*”\s+[\d.]+ %\s*){8}$/);
    await page.inside("textarea").hover();
    assert.equal(await tooltip(), undefined);

    await page.inside("button:not([disabled])").first().focus();
    await page.keyboard.press("Tab");
    const first = await described();
    assert.ok(await tooltip());
    await page.keyboard.press("ArrowRight");
    assert.ok(await tooltip());
    assert.notEqual(await described(), first);
    await page.keyboard.press("Escape");
    assert.equal(await tooltip(), undefined);
    await page.keyboard.press("End");
    await page.keyboard.press("Enter");
    const [selected, note] = await page.evaluate(() => [
      document.querySelector("#playground [aria-selected=true]")!.ariaLabel!,
      document.querySelector("#playground .panels .note")!.textContent!,
    ]);
    assert.ok(note.includes(selected.split(", ")[0]!), `${note} is about ${selected}`);
  });
});

Deno.test("the slider continues the prompt with another checkpoint", async () => {
  await withPlayground({}, async (page) => {
    await page.generate(SETTINGS);
    const text = () => page.inside("article").first().innerText(), newest = await text();
    await page.inside("input[type=range]").focus();
    await page.keyboard.press("ArrowLeft");
    assert.match(await page.inside(".checkpoint output").innerText(), /^step 4/);
    await page.waitForFunction(() =>
      /^tiny@4: \d/.test(document.querySelector("#playground [role=status]")!.textContent!)
    );
    assert.notEqual(await text(), newest);
    await page.keyboard.press("End");
    await page.waitForFunction(() =>
      document.querySelector("#playground [role=status]")!.textContent === "tiny@6: as before."
    );
    assert.equal(await text(), newest);
  });
});

Deno.test("the panels show the sampler's stages, the logit lens, attention and neighbours", async () => {
  await withPlayground({}, async (page) => {
    await page.generate({ ...SETTINGS, temperature: 1, top_k: 3 });
    await page.openPanels();
    const stages = () =>
      page.evaluate(() =>
        [...document.querySelectorAll("#playground .panels details:nth-of-type(1) thead small")]
          .map(({ textContent }) => textContent)
      );
    assert.equal((await stages())[3], "3 tokens");
    await page.inside("input[name=temperature]").fill("0");
    await page.waitForFunction(() =>
      document.querySelector(
        "#playground .panels details:nth-of-type(1) thead th:nth-child(4) small",
      )!
        .textContent === "1 token"
    );
    const shown = await page.evaluate(() => ({
      rows: document.querySelectorAll("#playground .lens tbody tr").length,
      heads: document.querySelectorAll("#playground .heads button").length,
      lines: document.querySelectorAll("#playground svg line").length,
      neighbours:
        document.querySelectorAll("#playground .panels details:nth-of-type(4) tbody tr").length,
      pixels: [...document.querySelectorAll<HTMLCanvasElement>("#playground canvas")]
        .map((canvas) => canvas.getContext("2d")!.getImageData(0, 0, canvas.width, canvas.height))
        .every(({ data }) => data.some((value, i) => i % 4 === 3 && value > 0)),
    }));
    const { lines, ...rest } = shown;
    assert.deepEqual(rest, { rows: 3, heads: 4, neighbours: 12, pixels: true });
    assert.ok(lines > 10);
    await page.inside(".heads button:nth-child(4)").focus();
    await page.keyboard.press("Enter");
    await page.waitForFunction(() =>
      document.querySelector("#playground .attention-view h4")!.textContent ===
        "Layer and head 1.1"
    );
  });
});

Deno.test("attention is that of the selected token when the window of the text has left it behind", async () => {
  await withPlayground({}, async (page) => {
    await page.generate({ ...SETTINGS, max_tokens: 60 });
    await page.openPanels();
    await page.inside("article:nth-child(1) [role=option]:nth-child(2)").click();
    await page.waitForFunction(() =>
      /The 2 tokens that the model sees up to the selected one/
        .test(document.querySelector("#playground .panels")!.textContent!)
    );
    const [hint, head] = await page.evaluate(() =>
      [".panels > .note", ".attention-head thead th"].map((selector) =>
        document.querySelector(`#playground ${selector}`)!.textContent!
      )
    );
    const [, token] = /^Token 2 of \d+, (“.*”), in /.exec(hint!)!;
    assert.equal(head, `${token} attends to`);
  });
});

Deno.test("a generation can be stopped, and a wrong setting is named", async () => {
  await withPlayground({}, async (page) => {
    await page.generate(SETTINGS);
    await page.inside("input[name=temperature]").fill("0");
    await page.inside("input[name=max_tokens]").fill("16384");
    await page.keyboard.press("Enter");
    await page.waitForFunction(() => document.querySelector("#playground .streaming"));
    await page.inside("button:text-is('Stop')").click();
    await page.waitForFunction(() =>
      document.querySelector("#playground [role=status]")!.textContent === "Stopped."
    );
    await page.inside("input[name=top_p]").fill("2");
    await page.keyboard.press("Enter");
    await page.waitForFunction(() =>
      document.querySelector("#playground input[name=top_p]")!.ariaInvalid === "true"
    );
    assert.match(await page.status(), /top_p must be above 0 and at most 1: current value is 2$/);
    // the browser reports the status of the refusal, not always before the page has its answer
    for (let tries = 0; tries < 1000 && page.errors.length === 0; tries++) {
      await new Promise((resolve) => setTimeout(resolve, 50));
    }
    assert.match(page.errors.pop() ?? "", /400 \(Bad Request\)/);
  });
});

Deno.test("the playground fits 360 pixels, and axe-core finds nothing serious in light and dark", async () => {
  const specifier: string = "npm:axe-core@4.14.1";
  const { source } = (await import(specifier)).default as { source: string };
  await withPlayground({ viewport: { width: 360, height: 740 } }, async (page) => {
    await page.generate(SETTINGS);
    await page.openPanels();
    await page.inside("[role=option][tabindex='0']").first().focus();
    assert.equal(await page.evaluate(() => document.documentElement.scrollWidth), 360);
    await page.evaluate(source);
    for (const scheme of ["light", "dark"]) {
      await page.evaluate((scheme) => document.documentElement.style.colorScheme = scheme, scheme);
      await page.panelsAreReady();
      const { violations } = await page.evaluate<
        { violations: { id: string; impact: string; nodes: { html: string }[] }[] }
      >("axe.run('#playground-panel', { resultTypes: ['violations'] })");
      assert.deepEqual(
        violations.filter(({ impact }) => /serious|critical/.test(impact))
          .map(({ id, nodes }) => `${id}: ${nodes.map(({ html }) => html).slice(0, 3).join(" ")}`),
        [],
        scheme,
      );
    }
  });
});

Deno.test("the browser and the server of the playground end", async () => {
  await browser.close();
  ended.abort();
  await assert.doesNotReject(server.shutdown());
});
