import assert from "node:assert/strict";
import { diagnosisTable } from "../../inspect/diagnosis_table.ts";
import { type CheckName, CHECKS, resultOf, unknownResult } from "../../train/record/checks.ts";

const CHECKED = [
  resultOf("diverging", 3.745, "the training loss, 10.863, is far above its lowest", {
    threshold: 2.8,
  }),
  unknownResult("vocabulary", "the text of its training is missing"),
  resultOf("leak", 0, "nothing changed"),
  resultOf("overfitting", 0.00312, "it does not rise"),
];

Deno.test("diagnosisTable() has a line per check, and cause and cure under those that are sick", () => {
  const { cause, cure } = CHECKS.diverging;
  assert.equal(
    diagnosisTable(CHECKED),
    `\
verdict  check        number  healthy  what is measured
sick     diverging       3.7    ≤ 2.8  rise of the training loss, nats
    The training loss, 10.863, is far above its lowest.
    Cause: ${cause}.
    Cure: ${cure}
unknown  vocabulary        —   ≤ 1.25  the text of its training is missing
ok       leak              0      ≤ 0  change of a logit by a later token
ok       overfitting  0.31 %    ≤ 1 %  rise of the validation loss
`,
  );
});

Deno.test("diagnosisTable() fits terminals of any width, and keeps verdict, check and number", () => {
  const all = Object.keys(CHECKS).map((name) =>
    resultOf(name as CheckName, 1e-7, "a finding of several words", {
      threshold: 123456,
      isSick: true,
    })
  );
  for (const columns of [40, 60, 80, 200]) {
    const lines = diagnosisTable(all, columns).trimEnd().split("\n");
    for (const line of lines) assert.ok(line.length <= columns, `${columns}: ${line}`);
    const found = lines.filter((line) => line.startsWith("sick")).map((line) =>
      line.split(/ +/)[1]
    );
    assert.deepEqual(found, Object.keys(CHECKS));
    assert.equal(lines.some((line) => line.includes("healthy")), columns >= 60);
  }
});

Deno.test("diagnosisTable() escapes what comes from files", () => {
  const text = diagnosisTable([
    resultOf("leak", 1, "a\x1b[31m word"),
    unknownResult("leak", "b\x1b[2J"),
  ]);
  assert.ok(!text.includes("\x1b"), text);
});
