/// <reference lib="dom" />
/// <reference lib="dom.iterable" />
import { statSync } from "node:fs";
import { join } from "node:path";
import { command, runCommand, status } from "../commands/command.ts";
import { byteCount } from "../files/units.ts";
import { UserError } from "../files/user_error.ts";
import { createHandler } from "../serve/handler.ts";
import { RunFolders } from "../serve/run_folders.ts";
import { hasCurve, openBrowser, type Page, type PageOptions } from "./browser.ts";

/** `screenshots`: the pictures of the dashboard in README.md and docs/, from runs. */
const program = command("screenshots", "Draw the pictures of the dashboard in docs/ from runs.")
  .argument("[folder]", "folder that holds runs", "runs")
  .option("--run <name>", "run to show, and to compare with the others", "default")
  .action((folder, options) => runCommand(() => main(folder, options.run)));

/** Most bytes of a picture: a clone of the project has all versions of it. */
const MOST_BYTES = 150_000;

/** A picture: its file in docs/, the page, and what is done on the page before. */
interface Picture extends PageOptions {
  readonly file: string;
  readonly prepare?: (page: Page) => Promise<unknown>;
  /** The element that is drawn, instead of what is visible. */
  readonly element?: string;
  /** Whether all runs are selected. */
  readonly areAll?: true;
}

const PICTURES: readonly Picture[] = [
  {
    file: "dashboard.png",
    viewport: { width: 1280, height: 860 },
    colorScheme: "light",
    areAll: true,
  },
  {
    file: "dashboard-details.png",
    viewport: { width: 1280, height: 860 },
    colorScheme: "dark",
    element: "#details",
  },
  { file: "dashboard-phone.png", viewport: { width: 360, height: 740 }, colorScheme: "light" },
  {
    file: "playground.png",
    viewport: { width: 1280, height: 860 },
    colorScheme: "light",
    element: "#playground-panel",
    prepare: async (page) => {
      await generate(page, []);
      await page.locator("#playground [aria-selected=true]").focus(); // its tooltip appears
    },
  },
  {
    file: "playground-inside.png",
    viewport: { width: 1280, height: 860 },
    colorScheme: "dark",
    element: "#playground .panels",
    prepare: (page) => generate(page, [1, 2]),
  },
  {
    file: "playground-attention.png",
    viewport: { width: 1280, height: 860 },
    colorScheme: "light",
    element: "#playground .panels details:nth-of-type(3)",
    prepare: (page) => generate(page, [3]),
  },
];

/** Opens the playground, generates, and opens panels below the text, which count from 1. */
async function generate(page: Page, panels: readonly number[]): Promise<void> {
  await page.locator("#playground-panel > summary").click();
  await page.waitForFunction(() =>
    document.querySelector<HTMLInputElement>("#playground input[name=top_p]")?.value
  );
  await page.locator("#playground [type=submit]").click();
  await page.waitForFunction(() => document.querySelector("#playground [aria-selected=true]"));
  for (const panel of panels) {
    await page.locator(`#playground .panels details:nth-of-type(${panel}) summary`).click();
  }
  await page.waitForFunction(
    (count: number) =>
      document.querySelectorAll(".panel-content:has(table)").length === count &&
      !document.querySelector("#playground [aria-busy]"),
    panels.length,
  );
}

async function main(folder: string, name: string): Promise<void> {
  const names = new RunFolders([folder]).rows().map(({ name }) => name);
  if (!names.includes(name)) {
    throw new UserError(`Cannot draw ${name} as --run must name a run in ${folder}`, {
      hint: `Its runs are ${names.slice(0, 10).join(", ") || "none"}`,
    });
  }
  const others = names.filter((other) => other !== name);
  const server = Deno.serve(
    { hostname: "127.0.0.1", port: 0, onListen: () => {} },
    createHandler({ folders: [folder] }),
  );
  const browser = await openBrowser();
  for (const { file, prepare, element, areAll, ...options } of PICTURES) {
    const page = await browser.newPage(options);
    const selection = [name, ...(areAll ? others : [])].map((run) => ["run", run]);
    await page.goto(`http://127.0.0.1:${server.addr.port}/#${new URLSearchParams(selection)}`);
    await page.waitForFunction(hasCurve);
    await page.waitForFunction(
      (count: number) =>
        document.querySelectorAll("#chart-loss .readout li").length === count &&
        document.querySelector("#details dl") !== null,
      selection.length,
    );
    await prepare?.(page);
    const path = join("docs", file);
    if (element === undefined) await page.screenshot({ path });
    else await page.locator(element).first().screenshot({ path });
    await page.close();
    const bytes = statSync(path).size;
    status(`drawn in ${path}: ${byteCount(bytes)}`);
    if (bytes > MOST_BYTES) {
      throw new UserError(
        `Cannot keep ${path} as a picture must have at most ${byteCount(MOST_BYTES)}: it has ${
          byteCount(bytes)
        }`,
      );
    }
  }
  await browser.close();
}

await program.parseAsync();
