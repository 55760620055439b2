import assert from "node:assert/strict";
import { readdirSync } from "node:fs";
import { join } from "node:path";

/** A reader of TensorBoard's event files for tests, which shares nothing with their writer. */

/** What a record holds. */
export interface ReadEvent {
  step: number;
  wallSeconds: number;
  version?: string;
  isStart?: true;
  /** By tag: a scalar, a text, or a histogram. */
  values: Record<string, number | string | ReadHistogram>;
}

export interface ReadHistogram {
  min: number;
  max: number;
  count: number;
  limits: number[];
  counts: number[];
}

/** Names of the event files of a run in their order, those that are empty left out. */
export function eventFiles(run: string): string[] {
  return readdirSync(run).filter((name) =>
    name.includes("tfevents") && Deno.statSync(join(run, name)).size > 0
  ).sort();
}

/** The events of a run's only event file, without those that begin it. */
export function readEvents(run: string): ReadEvent[] {
  const names = eventFiles(run);
  assert.equal(names.length, 1, names.join());
  const [version, start, ...events] = parseEvents(Deno.readFileSync(join(run, names[0]!)));
  assert.deepEqual([version!.version, start!.isStart, start!.step], ["brain.Event:2", true, 0]);
  return events;
}

/** Parses a file, every checksum of which must hold. */
export function parseEvents(file: Uint8Array): ReadEvent[] {
  const events: ReadEvent[] = [], view = new DataView(file.buffer, file.byteOffset);
  for (let at = 0; at < file.length;) {
    const length = Number(view.getBigUint64(at, true)),
      message = file.subarray(at + 12, at + 12 + length);
    assert.equal(view.getUint32(at + 8, true), mask(crc32c(file.subarray(at, at + 8))));
    assert.equal(view.getUint32(at + 12 + length, true), mask(crc32c(message)));
    events.push(parseEvent(message));
    at += 16 + length;
  }
  return events;
}

/** CRC-32C, bit by bit. */
export function crc32c(data: Uint8Array): number {
  let crc = 0xffffffff;
  for (const byte of data) {
    crc ^= byte;
    for (let bit = 0; bit < 8; bit++) crc = crc & 1 ? crc >>> 1 ^ 0x82f63b78 : crc >>> 1;
  }
  return ~crc >>> 0;
}

function mask(crc: number): number {
  return Number(
    BigInt.asUintN(32, (BigInt(crc) >> 15n | BigInt(crc) << 17n & 0xffffffffn) + 0xa282ead8n),
  );
}

function parseEvent(message: Uint8Array): ReadEvent {
  const fields = fieldsOf(message), version = fields.get(3)?.[0];
  const session = fields.get(7)?.[0];
  return {
    wallSeconds: double(fields.get(1)![0] as Uint8Array),
    step: Number(fields.get(2)?.[0] ?? 0),
    values: Object.fromEntries(
      [...fieldsOf((fields.get(5)?.[0] ?? new Uint8Array()) as Uint8Array).get(1) ?? []]
        .map((value) => parseValue(fieldsOf(value as Uint8Array))),
    ),
    ...(version === undefined ? {} : { version: text(version) }),
    ...(session && fieldsOf(session as Uint8Array).get(1)![0] === 1n ? { isStart: true } : {}),
  };
}

type Fields = Map<number, (bigint | Uint8Array)[]>;

function parseValue(fields: Fields): [tag: string, value: number | string | ReadHistogram] {
  const tag = text(fields.get(1)![0]!);
  const scalar = fields.get(2)?.[0], histogram = fields.get(5)?.[0], tensor = fields.get(8)?.[0];
  if (scalar) return [tag, new DataView((scalar as Uint8Array).slice().buffer).getFloat32(0, true)];
  if (histogram) {
    const of = fieldsOf(histogram as Uint8Array);
    const numbers = (
      field: number,
    ) => [...new Float64Array((of.get(field)![0] as Uint8Array).slice().buffer)];
    const [min, max, count] = [1, 2, 3].map((field) => double(of.get(field)![0] as Uint8Array));
    return [tag, { min: min!, max: max!, count: count!, limits: numbers(6), counts: numbers(7) }];
  }
  const plugin = fieldsOf(fieldsOf(fields.get(9)![0] as Uint8Array).get(1)![0] as Uint8Array);
  assert.equal(text(plugin.get(1)![0]!), "text");
  const of = fieldsOf(tensor as Uint8Array);
  assert.equal(of.get(1)![0], 7n);
  const dimensions = fieldsOf(of.get(2)![0] as Uint8Array).get(2)!;
  assert.deepEqual(dimensions.map((d) => fieldsOf(d as Uint8Array).get(1)![0]), [1n]); // shape [1]
  return [tag, text(of.get(8)![0]!)];
}

/** The fields of a message of protocol buffers, by their numbers. */
function fieldsOf(message: Uint8Array): Fields {
  const fields: Fields = new Map();
  let at = 0;
  const varint = () => {
    let value = 0n;
    for (let shift = 0n;; shift += 7n) {
      const byte = message[at++]!;
      value |= BigInt(byte & 0x7f) << shift;
      if (byte < 0x80) return value;
    }
  };
  while (at < message.length) {
    const key = Number(varint()), wire = key & 7, number = key >> 3;
    const list = fields.get(number) ?? [];
    fields.set(number, list);
    if (wire === 0) {
      list.push(varint());
      continue;
    }
    const length = wire === 1 ? 8 : wire === 5 ? 4 : Number(varint());
    assert.ok(wire !== 3 && wire !== 4 && at + length <= message.length);
    list.push(message.subarray(at, at += length));
  }
  return fields;
}

function double(bytes: Uint8Array): number {
  return new DataView(bytes.slice().buffer).getFloat64(0, true);
}

function text(bytes: bigint | Uint8Array): string {
  return new TextDecoder("utf-8", { fatal: true }).decode(bytes as Uint8Array);
}
