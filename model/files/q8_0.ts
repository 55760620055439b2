/**
 * llama.cpp's quantized type Q8_0: blocks of 32 elements of a row, each a scale in f16 and 32 8-bit integers
 * (`quantize_row_q8_0_ref()` in its ggml/src/ggml-quants.c).
 *
 * @module
 */

/** Elements and bytes per block. */
export const Q8_BLOCK = { elements: 32, bytes: 34 } as const;

const { elements: BLOCK, bytes: BLOCK_BYTES } = Q8_BLOCK;

/**
 * Quantizes rows whose length is a multiple of 32. The largest magnitude of a block becomes ±127, so that an element
 * changes by at most 1/254 of it, beside the rounding of the scale to f16.
 */
export function toQ8(values: Float32Array): Uint8Array<ArrayBuffer> {
  const blocks = values.length / BLOCK;
  const bytes = new Uint8Array(blocks * BLOCK_BYTES), view = new DataView(bytes.buffer);
  for (let block = 0; block < blocks; block++) {
    const first = block * BLOCK, at = block * BLOCK_BYTES;
    let most = 0;
    for (let i = first; i < first + BLOCK; i++) most = Math.max(most, Math.abs(values[i]!));
    // the integers follow from the scale before it is rounded to f16, in f32 as in ggml
    const scale = Math.fround(most / 127), inverse = scale === 0 ? 0 : Math.fround(1 / scale);
    view.setFloat16(at, scale, true);
    for (let i = 0; i < BLOCK; i++) {
      view.setInt8(at + 2 + i, roundHalfAway(Math.fround(values[first + i]! * inverse)));
    }
  }
  return bytes;
}

/** Rounds to the nearest integer, halves away from zero, as C's `roundf()` does. */
function roundHalfAway(value: number): number {
  return Math.sign(value) * Math.floor(Math.abs(value) + 0.5);
}

/**
 * Dequantizes elements: an 8-bit integer times the scale of its block.
 *
 * @param read returns the bytes of the tensor from `start` to before `end`.
 */
export function fromQ8(
  read: (start: number, end: number) => Uint8Array<ArrayBuffer>,
  first: number,
  count: number,
): Float32Array<ArrayBuffer> {
  const firstBlock = Math.floor(first / BLOCK), endBlock = Math.ceil((first + count) / BLOCK);
  const { buffer, byteOffset, byteLength } = read(firstBlock * BLOCK_BYTES, endBlock * BLOCK_BYTES);
  const view = new DataView(buffer, byteOffset, byteLength), values = new Float32Array(count);
  for (let i = 0; i < count; i++) {
    const at = first + i - firstBlock * BLOCK, block = Math.floor(at / BLOCK) * BLOCK_BYTES;
    values[i] = view.getFloat16(block, true) * view.getInt8(block + 2 + at % BLOCK);
  }
  return values;
}

/** The scales of all blocks of a tensor; they are finite if the quantized elements were. */
export function scalesOf(
  { buffer, byteOffset, byteLength }: Uint8Array<ArrayBuffer>,
): Float16Array {
  const view = new DataView(buffer, byteOffset, byteLength);
  return Float16Array.from(
    { length: byteLength / BLOCK_BYTES },
    (_, block) => view.getFloat16(block * BLOCK_BYTES, true),
  );
}
