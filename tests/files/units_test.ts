import assert from "node:assert/strict";
import { duration } from "../../files/units.ts";

Deno.test("duration() has tenths of seconds below a minute, and two units above", () => {
  const cases = [[0, "0.0s"], [9.25, "9.3s"], [59.94, "59.9s"], [59.96, "1m00s"], [245, "4m05s"]];
  for (const [seconds, text] of [...cases, [3599.6, "1h00m"], [9000, "2h30m"]]) {
    assert.equal(duration(seconds as number), text);
  }
});
