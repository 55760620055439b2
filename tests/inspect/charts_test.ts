import assert from "node:assert/strict";
import { drawAttention, drawLens, drawPredictions } from "../../inspect/charts.ts";
import type { Prediction } from "../../inspect/predictions.ts";
import { likely, tokens } from "./views.ts";

const title = "a <model>", ids = tokens.map(({ id }) => id);
const hostile = { id: 1, text: `</text><script>"&\x1b`, bytes: [] };

/** Texts of the elements of a kind, without those of axes and the title. */
const textsOf = (svg: string, tag: string) =>
  [...svg.matchAll(new RegExp(`<${tag}[^>]*>([^<]*)</${tag}>`, "g"))].map(([, text]) => text!);

Deno.test("drawPredictions() colours each token by its probability", async () => {
  const probabilities = [0.9, 0.04, 1e-6];
  const predictions = tokens.map((_, t): Prediction => ({
    ...{ top: [likely(3, 0.5), likely(1, 0.25)], entropy: 1 },
    ...(t < 3
      ? {
        next: {
          ...(t === 0 ? hostile : tokens[t + 1]!),
          probability: probabilities[t]!,
          rank: 2,
          loss: 1,
        },
      }
      : {}),
  }));
  const svg = await drawPredictions({
    ...{ ids, predictions },
    tokens: tokens.map((token, t) => t === 1 ? hostile : token),
  }, { title });
  const fills = [...svg.matchAll(/<rect [^>]*fill="(#[0-9a-f]{8})"/g)].map(([, fill]) => fill!);
  assert.equal(new Set(fills).size, 3);
  assert.match(fills[0]!, /^#4269d0/);
  assert.match(fills[2]!, /^#ff725c/);
  assert.ok(!svg.includes("<script") && !svg.includes("\x1b"), svg);
  assert.ok(svg.includes("&lt;/text&gt;&lt;script&gt;"), svg);
  assert.match(svg, /90.0 %, rank 2/);
});

Deno.test("drawAttention() draws a cell per weight, and names for a matrix of few tokens", async () => {
  const weights = tokens.map((_, t) => tokens.map((_, s) => s <= t ? 1 / (t + 1) : 0));
  const svg = await drawAttention({ tokens, weights }, { title });
  assert.equal(svg.match(/<title>[^<]*attends to/g)!.length, 10);
  assert.equal(textsOf(svg, "text").filter((text) => text.includes("endoftext")).length, 2);

  const many = Array.from({ length: 200 }, (_, id) => ({ id, text: `t${id}`, bytes: [] }));
  const rows = many.map((_, t) => many.map((_, s) => s === t ? 1 : 0));
  const large = await drawAttention({ tokens: many, weights: rows }, { title });
  assert.equal(large.match(/<title>[^<]*attends to/g)!.length, 200);
  assert.deepEqual(textsOf(large, "text").filter((text) => /^t\d+$/.test(text)), []);
});

Deno.test("drawLens() frames the cells whose likeliest token comes next", async () => {
  const layers = [0, 1].map((layer) =>
    tokens.map((_, t): Prediction => {
      const next = tokens[t + 1], rank = layer === 1 && t === 0 ? 1 : 2;
      return {
        ...{ top: [likely(3, 0.5)], entropy: 1 },
        ...(next ? { next: { ...next, probability: 0.1, rank, loss: 1 } } : {}),
      };
    })
  );
  const svg = await drawLens({ ids, tokens, layers }, { title });
  assert.equal(svg.match(/<title>/g)!.length, 1 + layers.length * tokens.length);
  const [, frames] = /<g [^>]*stroke="#ff725c"[^>]*>(.*?)<\/g>/s.exec(svg)!;
  assert.equal(frames!.match(/<rect /g)!.length, 1);
});
