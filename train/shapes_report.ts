import { fitTable } from "../files/table.ts";
import { byteCount } from "../files/units.ts";
import { BLUE, drawChart, GREEN, GREY, LIGHT_BLUE, RED, YELLOW } from "./record/chart.ts";
import { memoryTable } from "./estimate.ts";
import type { MemoryRole } from "./limits.ts";
import type { TrainingShapes, TrainingTensor } from "./shapes.ts";

/**
 * The tensors of a training as a table and as a picture.
 *
 * @module
 */

/** Columns of the table, and what they say of a tensor. */
const COLUMNS: Readonly<Record<string, (tensor: TrainingTensor) => string>> = {
  role: ({ role }) => role,
  tensor: nameOf,
  shape: ({ shape }) => shape.join(" × "),
  type: ({ dtype }) => dtype ?? "mixed",
  size: ({ bytes }) => byteCount(bytes),
  needed: ({ needed }) =>
    typeof needed === "string"
      ? needed
      : needed.length > 0
      ? needed.map(({ from, to }) => `${from}–${to}`).join(", ")
      : "never",
};

/** Columns that a narrow terminal leaves out, the first one first. */
const SPARE = ["type", "role", "shape", "needed"];

/** The name of a tensor without its role, which stands beside it. */
function nameOf({ name, role }: TrainingTensor): string {
  return name.startsWith(`${role} `) ? name.slice(role.length + 1) : name;
}

/** The memory by role, and every tensor, one line each, with as many columns as fit into `width` characters. */
export function shapesTable(
  { device, memory, parts, tensors }: TrainingShapes,
  width = Infinity,
): string {
  const step = parts.map(({ name, from, to }) => `${name} ${from}–${to}`).join(", ");
  return `${memoryTable(memory, device)}
launches of a step: ${step}

${fitTable(COLUMNS, tensors, { spare: SPARE, width })}`;
}

/** Colours of the roles in a step. */
const COLORS: Readonly<Partial<Record<MemoryRole, string>>> = {
  parameters: BLUE,
  optimizer: LIGHT_BLUE,
  gradients: YELLOW,
  activations: GREEN,
  logits: RED,
  other: GREY,
};

/** Size of the picture in pixels, and the height from which on a tensor has its name there. */
const PANEL = { width: 960, height: 760 }, NAMED = 8;

/**
 * Draws the memory of a step: a lane per tensor, as high as the tensor has bytes. The lane is filled for the launches
 * that need the tensor's values, and pale for those in which its memory waits.
 */
export function drawShapes(
  { launches, parts, tensors, memory }: TrainingShapes,
  { title }: { title: string },
): Promise<string> {
  const drawn = tensors.filter(({ needed }) => typeof needed !== "string" || needed === "run");
  const total = drawn.reduce((sum, { bytes }) => sum + bytes, 0), N = launches.length;
  const margins = { marginTop: 24, marginRight: 12, marginBottom: 42, marginLeft: 70 };
  const pixelsPerByte = (PANEL.height - margins.marginTop - margins.marginBottom) / total;
  let top = 0;
  const lanes = drawn.map((tensor) => {
    const lane = { ...tensor, color: COLORS[tensor.role]!, y1: top, y2: top += tensor.bytes };
    const when = COLUMNS.needed!(tensor), shape = COLUMNS.shape!(tensor);
    const title = `${tensor.name} ${shape} ${tensor.dtype ?? ""} ${byteCount(tensor.bytes)}, ${
      when === "run" ? "needed during the whole run" : `launches ${when}`
    }`;
    return { ...lane, title };
  });
  const bars = lanes.flatMap(({ needed, ...lane }) =>
    (typeof needed === "string" ? [{ from: 0, to: N - 1 }] : needed)
      .map(({ from, to }) => ({ ...lane, from, end: to + 1 }))
  );
  const roles = Object.keys(COLORS) as (keyof typeof COLORS)[];
  return drawChart({
    title,
    notes: [`${byteCount(total)} in a step, ${byteCount(memory.total - total)} elsewhere`],
    legend: roles.map((role) => {
      const bytes = drawn.reduce((sum, one) => sum + (one.role === role ? one.bytes : 0), 0);
      return { text: `${role} ${byteCount(bytes)}`, color: COLORS[role]!, sign: "■" };
    }),
    columns: 1,
    panel: PANEL,
    panels: (plot) => [{
      ...margins,
      x: { label: "launch", domain: [0, N], tickFormat: ",d" },
      y: {
        domain: [0, total],
        reverse: true,
        label: "bytes",
        tickFormat: (bytes: number) => byteCount(bytes, 2),
      },
      marks: [
        plot.rect(lanes, {
          x1: 0,
          x2: N,
          y1: "y1",
          y2: "y2",
          fill: "color",
          fillOpacity: 0.13,
          title: "title",
          insetBottom: 0.25,
          insetTop: 0.25,
        }),
        plot.rect(bars, {
          x1: "from",
          x2: "end",
          y1: "y1",
          y2: "y2",
          fill: "color",
          fillOpacity: 0.75,
          title: "title",
          insetBottom: 0.25,
          insetTop: 0.25,
        }),
        plot.ruleX(parts.slice(1), { x: "from", strokeOpacity: 0.4, strokeDasharray: "4 3" }),
        plot.text(parts, {
          x: ({ from, to }) => (from + to + 1) / 2,
          text: "name",
          frameAnchor: "top",
          dy: -16,
        }),
        plot.text(lanes.filter(({ bytes }) => bytes * pixelsPerByte >= NAMED), {
          x: 0,
          y: (lane) => (lane.y1 + lane.y2) / 2,
          text: nameOf,
          dx: 4,
          textAnchor: "start",
          fontSize: 9,
          pointerEvents: "none",
        }),
      ],
    }],
  });
}
