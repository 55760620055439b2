import assert from "node:assert/strict";
import { join } from "node:path";
import { countRecords, RecordWriter } from "../../../train/record/tfevents.ts";
import { directory } from "../../checkpoints.ts";
import { crc32c, parseEvents } from "./event_files.ts";

Deno.test("RecordWriter writes what TensorFlow does at the beginning of a file", () => {
  assert.equal(crc32c(new TextEncoder().encode("123456789")), 0xe3069283); // RFC 3720's check value
  const writer = new RecordWriter();
  writer.begin(1.5e9);
  assert.deepEqual(
    [...writer.bytes.subarray(0, 12)],
    [0x18, 0, 0, 0, 0, 0, 0, 0, 0xa3, 0x7f, 0x4b, 0x22],
  );
  assert.deepEqual(parseEvents(writer.bytes), [
    { wallSeconds: 1.5e9, step: 0, values: {}, version: "brain.Event:2" },
    { wallSeconds: 1.5e9, step: 0, values: {}, isStart: true },
  ]);
});

Deno.test("RecordWriter writes values of every kind, of any length", () => {
  const writer = new RecordWriter(), lengths = [0, 1, 100, 127, 128, 16_383, 16_384, 70_000];
  const histogram = {
    ...{ min: -2, max: 3, count: 2 ** 40, limits: [-1, 0, 4], counts: [1, 0, 2 ** 40 - 1] },
  };
  for (const [i, length] of lengths.entries()) {
    const values = [
      { tag: "text", markdown: "ä".repeat(length) },
      { tag: "x".repeat(length), scalar: 0.1 },
      { tag: "none", scalar: NaN },
      { tag: "histogram", histogram },
    ];
    writer.event({ step: 3 ** i * 1_000_003, wallSeconds: i + 0.25, values });
  }
  assert.equal(writer.length, writer.bytes.length);
  assert.deepEqual(
    parseEvents(writer.bytes),
    lengths.map((length, i) => ({
      step: 3 ** i * 1_000_003,
      wallSeconds: i + 0.25,
      values: {
        text: "ä".repeat(length),
        ["x".repeat(length)]: Math.fround(0.1),
        none: NaN,
        histogram,
      },
    })),
  );
  writer.clear();
  assert.equal(writer.bytes.length, 0);
});

Deno.test("countRecords() counts whole records, across the ends of what it reads at once", () => {
  const path = join(directory, "records"), writer = new RecordWriter();
  const ends = [0];
  for (let step = 0; step < 40; step++) {
    writer.event({
      step,
      wallSeconds: 1,
      values: [{ tag: "t", markdown: "x".repeat(4000 * step) }],
    });
    ends.push(writer.length);
  }
  const bytes = writer.bytes.slice();
  const count = (length: number, most: number) => {
    Deno.writeFileSync(path, bytes.subarray(0, length));
    return countRecords(path, most);
  };
  for (const most of [1, 2, 39, 40, 41]) {
    const whole = Math.min(most, 40);
    assert.deepEqual(count(bytes.length, most), {
      count: whole,
      endBytes: ends[whole],
      last: bytes.slice(ends[whole - 1], ends[whole]),
    });
  }
  for (const torn of [1, 11, 12, 13, 100]) {
    const { count: whole, endBytes } = count(ends[30]! + torn, 31);
    assert.deepEqual([whole, endBytes], [30, ends[30]]);
    assert.equal(count(ends[31]! - torn, 100).count, 30);
  }
  assert.equal(count(0, 9).count, 0);
  bytes[ends[20]!] = 255; // of a length, whose checksum then differs
  assert.equal(count(bytes.length, 40).count, 20);
});
