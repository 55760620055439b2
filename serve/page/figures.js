// @ts-check

/**
 * The figures of a record that the page draws, and the charts in which it draws them.
 *
 * @module
 */

/**
 * A figure: a field of the lines of one kind.
 * @typedef {object} Figure
 * @property {"step" | "evaluation"} kind kind of the lines
 * @property {string} field its name in a line
 * @property {string} label
 * @property {boolean} [noisy] whether it differs from step to step by chance, and may be smoothed
 */

/**
 * A chart: figures that share an axis.
 * @typedef {object} Chart
 * @property {string} id
 * @property {string} title
 * @property {string} unit
 * @property {readonly Figure[]} figures the first is drawn thin if there are two
 * @property {boolean} [log] whether its axis may be logarithmic
 * @property {boolean} [floor] whether the entropy of the text is drawn in it
 * @property {boolean} [rare] whether it is left out while all its values are equal
 */

/** @type {readonly Chart[]} */
export const CHARTS = [
  {
    id: "loss",
    title: "Loss",
    unit: "nats per token",
    figures: [
      { kind: "step", field: "loss", label: "training", noisy: true },
      { kind: "evaluation", field: "loss", label: "validation" },
    ],
    log: true,
    floor: true,
  },
  {
    id: "bits-per-byte",
    title: "Bits per byte",
    unit: "validation",
    figures: [{ kind: "evaluation", field: "bitsPerByte", label: "validation" }],
    log: true,
  },
  {
    id: "learning-rate",
    title: "Learning rate",
    unit: "",
    figures: [{ kind: "step", field: "learningRate", label: "learning rate" }],
    log: true,
  },
  {
    id: "muon-learning-rate",
    title: "Learning rate of Muon",
    unit: "",
    figures: [{ kind: "step", field: "muonLearningRate", label: "learning rate" }],
    log: true,
  },
  {
    id: "gradient-norm",
    title: "Gradient norm",
    unit: "before clipping",
    figures: [{ kind: "step", field: "gradientNorm", label: "norm", noisy: true }],
    log: true,
  },
  {
    id: "speed",
    title: "Speed",
    unit: "tokens per second",
    figures: [{ kind: "step", field: "tokensPerSecond", label: "speed", noisy: true }],
    log: true,
  },
  {
    id: "data-time",
    title: "Time in data",
    unit: "ms per step",
    figures: [{ kind: "step", field: "dataMs", label: "time", noisy: true }],
    log: true,
  },
  {
    id: "exchange-share",
    title: "Time in exchange",
    unit: "share of a step's time",
    figures: [{ kind: "step", field: "exchangeShare", label: "share", noisy: true }],
  },
  {
    id: "loss-scale",
    title: "Loss scale",
    unit: "f16",
    figures: [{ kind: "step", field: "lossScale", label: "scale" }],
    log: true,
    rare: true,
  },
  {
    id: "skipped",
    title: "Skipped steps",
    unit: "in total",
    figures: [{ kind: "step", field: "skipped", label: "skipped" }],
    rare: true,
  },
];

/**
 * The name of a figure's curve.
 *
 * @param {Figure} figure
 * @returns {string}
 */
export function curveName({ kind, field }) {
  return `${kind}.${field}`;
}
