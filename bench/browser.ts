/// <reference lib="dom" />
import { existsSync } from "node:fs";
import { UserError } from "../files/user_error.ts";

/**
 * A browser without a window, for pictures and tests of pages: Chromium or Chrome, driven by Playwright.
 *
 * @module
 */

/** With a literal specifier, every command would download it. */
const specifier: string = "npm:playwright-core@1.65.1";

/** Where systems install Chromium and Chrome. */
const PLACES = [
  "/usr/bin/chromium",
  "/usr/bin/chromium-browser",
  "/usr/bin/google-chrome",
  "/usr/bin/google-chrome-stable",
  "/snap/bin/chromium",
  "/opt/google/chrome/chrome",
  "/Applications/Google Chrome.app/Contents/MacOS/Google Chrome",
  "/Applications/Chromium.app/Contents/MacOS/Chromium",
  "C:\\Program Files\\Google\\Chrome\\Application\\chrome.exe",
  "C:\\Program Files (x86)\\Google\\Chrome\\Application\\chrome.exe",
];

/** Milliseconds until the browser must have started, or an element must be on its page: a machine that runs tests is busy. */
const PATIENCE_MS = 180_000;

/** Options of a page. */
export interface PageOptions {
  readonly viewport?: { readonly width: number; readonly height: number };
  readonly colorScheme?: "light" | "dark";
  readonly deviceScaleFactor?: number;
  readonly reducedMotion?: "reduce";
}

/** The part of Playwright's browser that is used here. */
export interface Browser {
  newPage(options?: PageOptions): Promise<Page>;
  close(): Promise<void>;
}

/** The part of Playwright's page that is used here (https://playwright.dev/docs/api/class-page). */
export interface Page {
  goto(url: string): Promise<unknown>;
  close(): Promise<void>;
  on(event: "request" | "pageerror" | "console", listener: (event: never) => void): void;
  evaluate<Result, Argument = void>(
    action: ((argument: Argument) => Result | Promise<Result>) | string,
    argument?: Argument,
  ): Promise<Result>;
  waitForFunction<Argument = void>(
    condition: (argument: Argument) => unknown,
    argument?: Argument,
  ): Promise<unknown>;
  screenshot(options: { path: string }): Promise<unknown>;
  locator(selector: string): Locator;
  readonly keyboard: { press(key: string): Promise<void>; type(text: string): Promise<void> };
  setViewportSize(size: { width: number; height: number }): Promise<void>;
}

/** The part of Playwright's locator that is used here. */
export interface Locator {
  click(): Promise<void>;
  fill(value: string): Promise<void>;
  focus(): Promise<void>;
  hover(): Promise<void>;
  count(): Promise<number>;
  isVisible(): Promise<boolean>;
  innerText(): Promise<string>;
  inputValue(): Promise<string>;
  allInnerTexts(): Promise<string[]>;
  first(): Locator;
  screenshot(options: { path: string }): Promise<unknown>;
}

/**
 * Starts a browser.
 *
 * @throws {UserError} if none is installed.
 */
export async function openBrowser(): Promise<Browser> {
  const executablePath = PLACES.find((path) => existsSync(path));
  if (executablePath === undefined) {
    throw new UserError("Cannot start a browser as Chromium or Chrome must be installed: none is", {
      hint: "On Debian: apt-get install chromium",
    });
  }
  const { chromium } = await import(specifier);
  const isRoot = Deno.build.os === "linux" && Deno.uid() === 0;
  const args = ["--disable-gpu", ...(isRoot ? ["--no-sandbox"] : [])];
  const browser = await chromium.launch({ executablePath, args, timeout: PATIENCE_MS });
  return {
    async newPage(options) {
      const page = await browser.newPage(options);
      page.setDefaultTimeout(PATIENCE_MS);
      return page;
    },
    close: () => browser.close(),
  };
}

/** Whether the dashboard's chart of losses shows a curve; it runs in the page. */
export function hasCurve(): boolean {
  const canvas = document.querySelector<HTMLCanvasElement>("#chart-loss canvas");
  const context = canvas?.getContext("2d");
  if (!canvas || !context || canvas.width * canvas.height === 0) return false;
  const { data } = context.getImageData(0, 0, canvas.width, canvas.height);
  // axes and texts are grey, runs are not
  return data.some((red, i) =>
    i % 4 === 0 && data[i + 3]! > 100 && Math.abs(red - data[i + 2]!) > 60
  );
}
