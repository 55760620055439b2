/** Parameters by the names of `parameterTable()`. */
export type Parameters = ReadonlyMap<string, ArrayLike<number>>;

/** Sizes of a model and of a batch. */
export interface ModelShape {
  B: number;
  T: number;
  C: number;
  layers: number;
  heads: number;
  V: number;
}

/**
 * Factor of dropout for an element of a site; in attention `row` is that of [B,NH,T] and `index` the key.
 */
export type Mask = (site: number, index: number, row?: number) => number;

/** A target that is ignored. */
const IGNORED = 0xffffffff;

/**
 * The loss of a GPT-2 in f64, summed over the targets that are not ignored. It is written in plain loops
 * and shares no code with the model under test.
 *
 * @param batch inputs, targets: [B·T]
 * @param mask of dropout, whose sites are 0 after the embedding, then in each layer 3 · layer + 1 in
 * attention, + 2 after its projection and + 3 after the MLP.
 */
export function lossSum(
  parameters: Parameters,
  { inputs, targets }: { inputs: ArrayLike<number>; targets: ArrayLike<number> },
  { B, T, C, layers, heads, V }: ModelShape,
  mask: Mask = () => 1,
): number {
  const M = B * T, HS = C / heads, F = 4 * C;
  const p = (name: string) => parameters.get(name)!;
  const make = (rows: number, columns: number, f: (row: number, column: number) => number) => {
    const y = new Float64Array(rows * columns);
    for (let i = 0; i < y.length; i++) y[i] = f(Math.floor(i / columns), i % columns);
    return y;
  };
  const linear = (x: Float64Array, name: string, inputs: number, outputs: number) => {
    const weight = p(`${name}.weight`), bias = p(`${name}.bias`);
    return make(M, outputs, (m, n) => {
      let sum = bias[n]!;
      for (let k = 0; k < inputs; k++) sum += x[m * inputs + k]! * weight[k * outputs + n]!;
      return sum;
    });
  };
  const layernorm = (x: Float64Array, name: string) => {
    const weight = p(`${name}.weight`), bias = p(`${name}.bias`);
    const rows = Array.from({ length: M }, (_, m) => {
      const row = x.subarray(m * C, (m + 1) * C);
      const mean = row.reduce((a, b) => a + b) / C;
      const variance = row.reduce((sum, v) => sum + (v - mean) ** 2, 0) / C;
      return { mean, rstd: 1 / Math.sqrt(variance + 1e-5) };
    });
    return make(M, C, (m, c) => {
      const { mean, rstd } = rows[m]!;
      return (x[m * C + c]! - mean) * rstd * weight[c]! + bias[c]!;
    });
  };
  const gelu = (x: number) =>
    x / 2 * (1 + Math.tanh(Math.sqrt(2 / Math.PI) * (x + 0.044715 * x ** 3)));

  const wte = p("wte.weight"), wpe = p("wpe.weight");
  let x = make(
    M,
    C,
    (m, c) => (wte[inputs[m]! * C + c]! + wpe[m % T * C + c]!) * mask(0, m * C + c),
  );
  for (let layer = 0; layer < layers; layer++) {
    const add = (branch: Float64Array, site: number) =>
      x = x.map((v, i) => v + branch[i]! * mask(3 * layer + site, i));
    const qkv = linear(layernorm(x, `h.${layer}.ln_1`), `h.${layer}.attn.c_attn`, C, 3 * C);
    const attended = new Float64Array(M * C);
    for (let row = 0; row < B * heads * T; row++) { // of [B,NH,T]
      const t = row % T, head = Math.floor(row / T) % heads, b = Math.floor(row / T / heads);
      const at = (s: number, part: number, i: number) =>
        qkv[(b * T + s) * 3 * C + part * C + head * HS + i]!;
      const scores = Array.from({ length: t + 1 }, (_, s) => {
        let score = 0;
        for (let i = 0; i < HS; i++) score += at(t, 0, i) * at(s, 1, i);
        return Math.exp(score / Math.sqrt(HS));
      });
      const total = scores.reduce((a, b) => a + b);
      for (let i = 0; i < HS; i++) {
        attended[(b * T + t) * C + head * HS + i] = scores.reduce(
          (sum, score, s) => sum + score / total * mask(3 * layer + 1, s, row) * at(s, 2, i),
          0,
        );
      }
    }
    add(linear(attended, `h.${layer}.attn.c_proj`, C, C), 2);
    const hidden = linear(layernorm(x, `h.${layer}.ln_2`), `h.${layer}.mlp.c_fc`, C, F);
    add(linear(hidden.map(gelu), `h.${layer}.mlp.c_proj`, F, C), 3);
  }
  const last = layernorm(x, "ln_f");
  let loss = 0;
  for (let m = 0; m < M; m++) {
    if (targets[m] === IGNORED) continue;
    const logits = Array.from({ length: V }, (_, v) => {
      let logit = 0;
      for (let c = 0; c < C; c++) logit += last[m * C + c]! * wte[v * C + c]!;
      return logit;
    });
    loss += Math.log(logits.reduce((sum, logit) => sum + Math.exp(logit), 0)) -
      logits[targets[m]!]!;
  }
  return loss;
}
