import { InvalidArgumentError, Option } from "@commander-js/extra-typings";
import { UserError } from "../files/user_error.ts";
import { type LoadedModel, loadSource } from "../generate/load.ts";
import { drawAttention, drawLens, drawPredictions } from "../inspect/charts.ts";
import { attentionWeightsOf } from "../inspect/inspect.ts";
import { neighboursOf } from "../inspect/neighbours.ts";
import { logitLensOf, predictionsOf } from "../inspect/predictions.ts";
import { attentionTable, lensTable, neighboursTable, predictionsTable } from "../inspect/tables.ts";
import { tokenOf } from "../inspect/tokens.ts";
import {
  command,
  output,
  outputColumns,
  readStandardInput,
  runCommand,
  wholeNumber,
} from "./command.ts";
import { openGpu } from "./gpu.ts";
import { findNamedModel, withModelOptions } from "./named_model.ts";
import { giveBack, HUB } from "./permissions.ts";
import { checkPlot, writePlot } from "./plot.ts";

/** A head of a layer, each numbered from 0. */
interface Head {
  readonly layer: number;
  readonly head: number;
}

function headNamed(text: string): Head {
  const [, layer, head] = /^(\d+)\.(\d+)$/.exec(text) ?? [];
  if (head === undefined) {
    throw new InvalidArgumentError("It must be a layer and a head, from 0, such as 1.0.");
  }
  return { layer: Number(layer), head: Number(head) };
}

/** `inspect`: what a model computes of a text. */
const program = withModelOptions(
  command(
    "inspect",
    "Show what a model computes of a text: per token its probability, its rank, and the alternatives.",
  ),
)
  .argument("<text>", "the text, read as a document; - reads it from standard input")
  .optionsGroup("Other views:")
  .addOption(
    new Option("--attention <layer.head>", "which tokens each token attends to")
      .argParser(headNamed).conflicts(["lens", "neighbours"]),
  )
  .addOption(
    new Option("--lens", "the logit lens: what each layer would predict")
      .conflicts(["neighbours"]),
  )
  .option("--neighbours", "the tokens whose embeddings are nearest")
  .optionsGroup("Output:")
  .option("--top <n>", "alternatives or neighbours per token", wholeNumber(1, 1000), 10)
  .option("--json", "print a JSON object instead of a table")
  .option("--svg <file>", "draw the view in this file instead")
  .action((given, options) => runCommand(() => main(given, options)));

/** What the command shows: the result of a function of the library, as a table and as a picture. */
interface View {
  readonly result: unknown;
  table(width: number | undefined): string;
  /** Undefined if there is no picture of it. */
  readonly draw?: (model: string) => Promise<string>;
}

async function main(given: string, options: ReturnType<typeof program.opts>): Promise<void> {
  const { svg, json } = options;
  if (svg !== undefined) {
    if (options.neighbours) {
      throw new UserError("Cannot draw --neighbours as --svg needs another view", {
        hint: "The other views are --attention, --lens, and the probabilities without either",
      });
    }
    checkPlot(svg);
  }
  const text = given === "-" ? await readStandardInput("inspect") : given;
  const source = await findNamedModel(options);
  giveBack(...HUB);
  if (svg === undefined) giveBack("write");
  using device = await openGpu(options);
  const view = await viewOf(loadSource(device, source), text, options);
  if (json) output(`${JSON.stringify(view.result)}\n`);
  if (svg === undefined) {
    if (!json) output(view.table(outputColumns()));
    return;
  }
  writePlot(svg, await view.draw!(options.model ?? options.run));
}

/** Computes what the options ask for. */
async function viewOf(
  model: LoadedModel,
  text: string,
  { attention, lens, neighbours, top }: ReturnType<typeof program.opts>,
): Promise<View> {
  if (attention) return await attentionView(model, text, attention);
  if (neighbours) return await neighboursView(model, text, top);
  if (lens) {
    const result = await logitLensOf(model, text, { top });
    return {
      result,
      table: (width) => lensTable(result, width),
      draw: (name) => drawLens(result, { title: `Logit lens of ${name}` }),
    };
  }
  const result = await predictionsOf(model, text, { top });
  return {
    result,
    table: (width) => predictionsTable(result, width),
    draw: (name) => drawPredictions(result, { title: `Probabilities of tokens by ${name}` }),
  };
}

async function attentionView(
  model: LoadedModel,
  text: string,
  { layer, head }: Head,
): Promise<View> {
  const { heads } = model.gpt.config;
  if (head >= heads) {
    throw new UserError(
      `Cannot show attention as the head must be 0 to ${heads - 1}: current value is ${head}`,
    );
  }
  const { ids, weights } = await attentionWeightsOf(model, text, { layer }), T = ids.length;
  const tokens = ids.map((id) => tokenOf(model.tokenizer, id));
  const rows = ids.map((_, t) => {
    const start = (head * T + t) * T;
    return [...weights.subarray(start, start + T)];
  });
  const result = { ids, tokens, layer, head, weights: rows };
  return {
    result,
    table: (width) => attentionTable(result, width),
    draw: (name) =>
      drawAttention(result, { title: `Attention of head ${layer}.${head} of ${name}` }),
  };
}

/** Neighbours in the token embedding, and in the head if it has a separate matrix. */
async function neighboursView(model: LoadedModel, text: string, top: number): Promise<View> {
  const result = await neighboursOf(model, text, { top });
  if (!model.gpt.config.ownHead) {
    return { result, table: (width) => neighboursTable(result, width) };
  }
  const { neighbours: inHead } = await neighboursOf(model, text, { top, matrix: "head" });
  return {
    result: { ...result, inHead },
    table: (width) =>
      `${neighboursTable(result, width)}\nin the head:\n` +
      neighboursTable({ ...result, neighbours: inHead }, width),
  };
}

await program.parseAsync();
