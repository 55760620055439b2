import assert from "node:assert/strict";
import { Buffer } from "node:buffer";
import { constants, gzipSync, zstdCompressSync } from "node:zlib";
import { Random } from "../../../data/random.ts";
import { DataError } from "../../../data/text/data_error.ts";
import { unpack } from "../../../data/text/unpack.ts";
import { freshSeed } from "../../seeds.ts";
import { oddText } from "../texts.ts";

async function* inChunks(bytes: Uint8Array, most: number) {
  for (let at = 0; at < bytes.length; at += most) yield bytes.subarray(at, at + most);
}

async function all(chunks: AsyncIterable<Uint8Array>): Promise<Buffer> {
  const list: Uint8Array[] = [];
  for await (const chunk of chunks) list.push(chunk);
  return Buffer.concat(list);
}

const seed = freshSeed(), random = new Random(seed);
const text = Buffer.from(Array.from({ length: 20_000 }, () => oddText(random)).join(""));
const zeros = Buffer.alloc(300_000); // of which zstd makes blocks of one byte
const checked = { params: { [constants.ZSTD_c_checksumFlag]: 1 } };
const skipped = Buffer.from("502a4d1803000000abcdef", "hex");

Deno.test("unpack() reads one and many members or frames, whatever the chunks", async () => {
  const halves = [text.subarray(0, 1e5), text.subarray(1e5)];
  const cases: ["gzip" | "zstd", Uint8Array, Buffer][] = [
    ["gzip", gzipSync(text), text],
    ["gzip", Buffer.concat([...halves, zeros.subarray(0, 0)].map((part) => gzipSync(part))), text],
    ["zstd", zstdCompressSync(text), text],
    ["zstd", zstdCompressSync(text, checked), text],
    ["zstd", zstdCompressSync(zeros), zeros],
    [
      "zstd",
      Buffer.concat([
        skipped,
        ...[...halves, zeros.subarray(0, 0)].map((part) => zstdCompressSync(part, checked)),
        skipped,
      ]),
      text,
    ],
  ];
  for (const [i, [packing, packed, expected]] of cases.entries()) {
    for (const most of [97, 1e6]) {
      const unpacked = await all(unpack(inChunks(packed, most), packing, "x"));
      assert.ok(unpacked.equals(expected), `case ${i}, chunks of ${most}, seed ${seed}`);
    }
  }
});

/** A frame with one block of plain bytes, and a header as its flags say (https://www.rfc-editor.org/rfc/rfc8878). */
function frameOf(
  content: Uint8Array,
  { isSingle, dictionary, size }: { isSingle: boolean; dictionary: number; size: number },
): Buffer {
  const descriptor = size << 6 | (isSingle ? 0x20 : 0) | dictionary;
  const length = Buffer.alloc(8);
  length.writeUInt32LE(size === 1 ? content.length - 256 : content.length);
  const block = Buffer.alloc(3);
  block.writeUIntLE(content.length << 3 | 1, 0, 3);
  return Buffer.concat([
    Buffer.from([0x28, 0xb5, 0x2f, 0xfd, descriptor, ...isSingle ? [] : [0]]),
    Buffer.alloc([0, 1, 2, 4][dictionary]!), // 0 names no dictionary
    length.subarray(0, [isSingle ? 1 : 0, 2, 4, 8][size]),
    block,
    content,
  ]);
}

Deno.test("unpack() reads frames of zstd with every kind of header", async () => {
  for (const isSingle of [false, true]) {
    for (let dictionary = 0; dictionary < 4; dictionary++) {
      for (let size = 0; size < 4; size++) {
        const content = text.subarray(0, size === 0 ? 200 : 300);
        const packed = frameOf(content, { isSingle, dictionary, size });
        const unpacked = await all(
          unpack(inChunks(Buffer.concat([packed, packed]), 7), "zstd", "x"),
        );
        assert.ok(
          unpacked.equals(Buffer.concat([content, content])),
          JSON.stringify({ isSingle, dictionary, size, seed }),
        );
      }
    }
  }
});

Deno.test("unpack() names the byte at which a file breaks off or is damaged", async () => {
  const small = Buffer.from("One. Two. Three. Four.");
  for (
    const [packing, packed] of [
      ["gzip", gzipSync(small)],
      ["zstd", zstdCompressSync(small, checked)],
    ] as const
  ) {
    for (let length = 1; length < packed.length; length++) {
      await assert.rejects(all(unpack(inChunks(packed.subarray(0, length), 5), packing, "x")), {
        message:
          `Cannot read data file x as it must be whole ${packing}: it breaks off, at byte ${length}`,
      });
    }
  }
  const at = (packed: Uint8Array, place: number) =>
    packed.map((byte, i) => i === place ? byte ^ 0xff : byte);
  for (const [packing, pack] of [["gzip", gzipSync], ["zstd", zstdCompressSync]] as const) {
    const packed = pack(text, checked as object);
    for (const place of [packed.length >> 1, packed.length - 5, packed.length - 1]) {
      await assert.rejects(
        all(unpack(inChunks(at(packed, place), 1e4), packing, "x")),
        new RegExp(`as it must be whole ${packing}: .*, at byte \\d+$`),
        `${packing} ${place}, seed ${seed}`,
      );
    }
  }
  await assert.rejects(all(unpack(inChunks(Buffer.from("plain text"), 9), "zstd", "x")), {
    message:
      "Cannot read data file x as it must be whole zstd: a frame lacks its magic number, at byte 4",
  });
});

Deno.test("unpack() throws the errors of reading unchanged", async () => {
  for (const packing of ["gzip", "zstd"] as const) {
    const packed = packing === "gzip" ? gzipSync(text) : zstdCompressSync(text);
    const chunks = (async function* () {
      yield packed.subarray(0, 1000);
      throw new DataError("x: the disk is gone");
    })();
    await assert.rejects(all(unpack(chunks, packing, "x")), /^DataError: .*the disk is gone$/);
  }
});
