import assert from "node:assert/strict";
import { duration, inShort } from "../../files/units.ts";

Deno.test("duration() has tenths of seconds below a minute, and two units above", () => {
  const cases = [[0, "0.0s"], [9.25, "9.3s"], [59.94, "59.9s"], [59.96, "1m00s"], [245, "4m05s"]];
  for (const [seconds, text] of [...cases, [3599.6, "1h00m"], [9000, "2h30m"]]) {
    assert.equal(duration(seconds as number), text);
  }
});

Deno.test("inShort() has three digits and the unit of the rounded number", () => {
  const cases = [[7, "7"], [999, "999"], [1000, "1 k"], [167_168, "167 k"], [1_119_478, "1.12 M"]];
  for (
    const [count, text] of [...cases, [999_499, "999 k"], [999_500, "1 M"], [2.5e12, "2500 G"]]
  ) {
    assert.equal(inShort(count as number), text);
  }
});
