import assert from "node:assert/strict";
import { join } from "node:path";
import { Screen } from "./commands/screen.ts";
import { dirname, fromFileUrl } from "./paths.ts";

const root = dirname(dirname(fromFileUrl(import.meta.url)));
const directory = Deno.makeTempDirSync();
globalThis.addEventListener("unload", () => Deno.removeSync(directory, { recursive: true }));

/** Programs that ./toy calls beside deno, npx and apt-get. */
const TOOLS = "sh dirname sed grep uname id mktemp tail rm ln readlink sleep".split(" ");

/** Where ./toy looks for Vulkan's driver and loader, which a test replaces by a folder of its own. */
const FOLDERS = /^ {2}for folder in \/.*; do$/gm;

/** A copy of ./toy that finds nothing on the PATH but the usual tools and some scripts, and no driver. */
function toyWith(name: string, scripts: Record<string, string>) {
  const place = join(directory, name), bin = join(place, "bin");
  Deno.mkdirSync(bin, { recursive: true });
  for (const tool of TOOLS) {
    const folder = ["/usr/bin", "/bin"].find((path) => exists(join(path, tool)));
    if (folder && !(tool in scripts)) Deno.symlinkSync(join(folder, tool), join(bin, tool));
  }
  for (const [script, body] of Object.entries(scripts)) {
    Deno.writeTextFileSync(join(bin, script), `#!/bin/sh\n${body}\n`, { mode: 0o755 });
  }
  const text = Deno.readTextFileSync(join(root, "toy"));
  assert.equal(text.match(FOLDERS)?.length, 2);
  Deno.writeTextFileSync(
    join(place, "toy"),
    text.replaceAll(FOLDERS, `  for folder in ${place}; do`),
    { mode: 0o755 },
  );
  Deno.mkdirSync(join(place, "distributed"), { recursive: true });
  for (const file of ["deno.json", "deno.lock", "distributed/own_gpu.sh"]) {
    Deno.copyFileSync(join(root, file), join(place, file));
  }
  const command = (
    args: string[],
    env: Record<string, string> = {},
    { script = join(place, "toy"), cwd = place } = {},
  ) =>
    new Deno.Command("/bin/sh", {
      args: [script, ...args],
      cwd,
      clearEnv: true,
      // a driver that is named counts as one, so that nothing is installed
      env: { PATH: bin, HOME: place, TMPDIR: place, VK_DRIVER_FILES: "/some/driver.json", ...env },
      stdout: "piped",
      stderr: "piped",
    });
  return { place, command };
}

async function outputOf(command: Deno.Command) {
  const { code, stdout, stderr } = await command.output();
  const text = (bytes: Uint8Array) => new TextDecoder().decode(bytes);
  return { code, stdout: text(stdout), stderr: text(stderr) };
}

function exists(path: string): boolean {
  try {
    Deno.lstatSync(path);
    return true;
  } catch {
    return false;
  }
}

const deno = (version: string, name = "deno") =>
  `[ "$1" = --version ] && echo "deno ${version} (stable)" || printf '${name}:%s\\n' "$@"`;
/** npx, which says where the deno lies that it has installed. */
const npx = `printf '%s\\n' "$@" >"$HOME/npx"; echo "$HOME/bin/installed"`;
const installed = deno("2.9.6", "installed");
const CASES: [name: string, scripts: Record<string, string>, deno: string][] = [
  ["deno 2.9", { deno: deno("2.9.0"), npx }, "deno"],
  ["deno 3", { deno: deno("3.0.1"), npx }, "deno"],
  ["deno 2.8", { deno: deno("2.8.5"), npx, installed }, "installed"],
  ["no deno", { npx, installed }, "installed"],
];

const ignore = Deno.build.os === "windows";
const { tasks } = JSON.parse(Deno.readTextFileSync(join(root, "deno.json")));

for (const [name, scripts, runs] of CASES) {
  Deno.test({
    name: `toy takes deno from the PATH or npx: ${name}`,
    ignore,
    async fn() {
      const { place, command } = toyWith(name, scripts);
      const words = ["--steps", "3", "two words"];
      const { code, stdout } = await outputOf(command(["train", ...words]));
      assert.equal(code, 0);
      const expected = [...(tasks.train.command as string).split(" ").slice(1), ...words];
      assert.deepEqual(stdout.trim().split("\n"), expected.map((word) => `${runs}:${word}`));
      assert.equal(exists(join(place, "npx")), runs === "installed");
      if (runs === "installed") {
        assert.match(
          Deno.readTextFileSync(join(place, "npx")),
          /^--yes\n.*\n--package=deno@2\.9\n/,
        );
      }
    },
  });
}

Deno.test({
  name: "toy gives a task the permissions that its arguments need, and leaves other tasks to deno",
  ignore,
  async fn() {
    const { place, command } = toyWith("permissions", { deno: deno("2.9.6") });
    const flags = async (...args: string[]) => {
      const words = (await outputOf(command(args))).stdout.trim().split("\n");
      return words.map((word) => word.slice("deno:".length)).join(" ");
    };
    const ranks = { OMPI_COMM_WORLD_SIZE: "2" }, one = { OMPI_COMM_WORLD_SIZE: "1" };
    for (const [env, task] of [[ranks, "train:ffi"], [one, "train"]] as const) {
      const { stdout } = await outputOf(command(["train"], env));
      const expected = (tasks[task].command as string).split(" ").slice(1);
      assert.deepEqual(stdout.trim().split("\n"), expected.map((word) => `deno:${word}`));
    }
    const modules = { ...ranks, LD_LIBRARY_PATH: "/apps/mpi/lib:/apps/lib" };
    const { stdout } = await outputOf(command(["train"], modules));
    assert.match(stdout, /^deno:run\ndeno:--allow-ffi=\/apps\/mpi\/lib,\/apps\/lib\ndeno:-q\n/);
    const script = "--no-prompt commands/generate.ts";
    assert.equal(
      await flags("generate", "Once"),
      `run --deny-net --deny-write -q -P=hub ${script} Once`,
    );
    assert.equal(
      await flags("generate:ffi", "Once"),
      `run --deny-net --deny-write -q -P=hub --allow-ffi=dawn ${script} Once`,
    );
    for (const words of ["--gpu dawn", "--gpu auto", "--gpu=dawn", "--top-k 3 --gpu=auto"]) {
      assert.equal(
        await flags("generate", ...words.split(" ")),
        `run --deny-net --deny-write -q -P=hub --allow-ffi=dawn ${script} ${words}`,
      );
    }
    assert.equal(
      await flags("chat", "--system", "Once"), // which may save the conversation
      "run --deny-net -q -P=hub --no-prompt commands/chat.ts --system Once",
    );
    assert.doesNotMatch(await flags("chat", "--model", "hf:a/b"), /deny/);
    for (const words of ["--gpu native", "dawn", "--gpu"]) {
      assert.doesNotMatch(await flags("generate", ...words.split(" ")), /ffi/);
    }
    assert.doesNotMatch(await flags("runs", "--gpu", "dawn"), /ffi/); // it computes nothing
    for (const model of ["hf:a/b", "distilgpt2", "gpt2-medium"]) {
      assert.equal(
        await flags("generate", "--model", model),
        `run -q -P=hub ${script} --model ${model}`,
      );
    }
    // adapters name their base, which may be a directory
    const adapters = (folder: string, base: string) => {
      const path = join(place, folder), fields = { r: 1, base_model_name_or_path: base };
      Deno.mkdirSync(path, { recursive: true });
      Deno.writeTextFileSync(join(path, "adapter_config.json"), JSON.stringify(fields, null, 2));
    };
    const denied = async (...args: string[]) =>
      (await flags("generate", ...args)).startsWith("run --deny-net --deny-write ");
    adapters("local", place);
    adapters("of the hub", "tiny/model");
    adapters("my run/checkpoints/000001", "hf:tiny/model");
    assert.ok(await denied("--model", "local"));
    assert.ok(!await denied("--model", "of the hub"));
    assert.ok(!await denied("--model=of the hub"));
    assert.ok(!await denied("--run", "my run"));
    assert.ok(await denied("--checkpoint", place));
    adapters("runs/default/checkpoints/000001", "tiny/model");
    assert.ok(!await denied("Once"));
    // a server needs the network of its address alone
    const serving = async (...args: string[]) => {
      const [, given] = /^run (.*?)-q -P=serve /.exec(await flags("serve", ...args))!;
      return given!.trim();
    };
    Deno.removeSync(join(place, "runs"), { recursive: true });
    for (
      const [words, address] of [
        ["", "127.0.0.1:8000"],
        ["--run a b@best --port 8001", "127.0.0.1:8001"],
        ["--host 0.0.0.0 --port=80", "0.0.0.0:80"],
        ["--host=::1", "[::1]:8000"],
        ["--host a*b", "127.0.0.1:8000"],
      ] as const
    ) {
      const args = words === "" ? [] : words.split(" ");
      assert.equal(await serving(...args), `--allow-net=${address} --deny-write`, words);
    }
    for (const word of ["gpt2", "me=hf:a/b", "x=my run@best"]) {
      assert.equal(await serving("--model", word), "", word);
    }
    const allowed = "run -q --no-prompt --allow-env=TOY_COMMAND";
    assert.equal(await flags("check", "a"), "task -q check a");
    for (const words of [[], ["--help"], ["--version"], ["trian"], ["no.*such", "a"], ["files"]]) {
      assert.equal(await flags(...words), [allowed, "commands/help.ts", ...words].join(" "));
    }
  },
});

Deno.test({
  name: "toy says where it was called, and how, from any directory and through symbolic links",
  ignore,
  async fn() {
    const says = `echo "$PWD|$INIT_CWD|$TOY_COMMAND"`;
    const { place, command } = toyWith("links", {
      deno: `case $1 in --version) echo deno 2.9.6 ;; run) ${says} ;; esac`,
    });
    const elsewhere = join(place, "some where"), bin = join(place, "bin");
    Deno.mkdirSync(elsewhere);
    Deno.symlinkSync("../toy", join(bin, "toy")); // on the PATH
    Deno.symlinkSync(join("..", "bin", "toy"), join(elsewhere, "link"));
    const project = Deno.realPathSync(place);
    const of = async (script: string) => {
      const { code, stdout, stderr } = await outputOf(
        command(["train"], {}, { script, cwd: elsewhere }),
      );
      assert.equal(code, 0, stderr);
      return stdout.trim();
    };
    const user = `${project}|${elsewhere}`;
    assert.equal(await of("./link"), `${user}|./link`);
    assert.equal(await of("link"), `${user}|./link`);
    assert.equal(await of("../toy"), `${user}|../toy`);
    assert.equal(await of(join(bin, "toy")), `${user}|toy`);
  },
});

/** A deno whose cache lacks some packages. */
const EMPTY_CACHE = `case $1 in
  --version) echo deno 2.9.6 ;;
  install) for i in 1 2 3; do echo "Download https://example.com/$i.tgz"; done
    [ ! -e "$HOME/offline" ] || echo "error: Failed caching npm package 'a@1.0.0'" ;;
  *) echo "deno:$1" ;;
esac`;

Deno.test({
  name: "toy downloads packages with one line, and says in one if it cannot",
  ignore,
  async fn() {
    const { place, command } = toyWith("packages", { deno: EMPTY_CACHE });
    const said = "toy: downloading packages, once\n";
    const online = await outputOf(command(["doctor"]));
    assert.deepEqual(online, { code: 0, stdout: "deno:run\n", stderr: said });
    Deno.writeTextFileSync(join(place, "offline"), "");
    const { code, stdout, stderr } = await outputOf(command(["doctor"]));
    assert.deepEqual([code, stdout], [1, ""]);
    assert.equal(stderr, `${said}toy: Failed caching npm package 'a@1.0.0'; check the network\n`);
  },
});

Deno.test({
  name: "toy shows the download of packages on one line of a terminal",
  ignore: Deno.build.os !== "linux", // others' script(1) takes other arguments
  async fn() {
    const { place } = toyWith("terminal", { deno: EMPTY_CACHE });
    const line =
      `PATH='${place}/bin' HOME='${place}' VK_DRIVER_FILES=/a.json sh '${place}/toy' doctor`;
    const { stdout } = await outputOf(
      new Deno.Command("script", {
        args: ["-qec", line, "/dev/null"],
        env: { TERM: "xterm", NO_COLOR: "", TMPDIR: place },
        stdin: "null",
      }),
    );
    const screen = new Screen(80);
    screen.write(stdout);
    const all = Deno.readTextFileSync(join(root, "deno.lock")).match(/"integrity"/g)!.length;
    assert.deepEqual(await screen.lines(), [
      `toy: downloading packages, once: 3 of ${all}`,
      "deno:run",
    ]);
  },
});

Deno.test({
  name: "toy says what is missing when there is neither deno nor npx",
  ignore,
  async fn() {
    const { code, stderr } = await outputOf(toyWith("nothing", {}).command(["train"]));
    assert.equal(code, 1);
    assert.match(stderr, /^toy: Deno 2\.9 or Node with npx is needed/);
  },
});

/** A machine where nothing is installed, on which to install takes more than a second. */
const BARE = {
  deno: deno("2.9.6"),
  uname: "echo Linux",
  id: "echo 0",
  "apt-get": `[ "$1" = install ] || exit 0
    echo begin >>"$HOME/log"; sleep 1.3; echo end >>"$HOME/log"
    /bin/mkdir -p "$HOME/vulkan/icd.d"; echo >"$HOME/vulkan/icd.d/a.json"; echo >"$HOME/libvulkan.so.1"`,
};

Deno.test({
  name: "toy installs once when two start together: the second waits",
  ignore,
  async fn() {
    // the first one installs until the second one waits, however long that takes
    const untilTold = `n=0; until [ -e "$HOME/told" ] || [ $n -eq 600 ]; do
      n=$((n + 1)); sleep 0.1
    done`;
    const { place, command } = toyWith("together", {
      ...BARE,
      "apt-get": BARE["apt-get"].replace("sleep 1.3", untilTold),
    });
    const start = async () => {
      const process = command(["doctor"], { VK_DRIVER_FILES: "" }).spawn();
      let stderr = "";
      for await (const text of process.stderr.pipeThrough(new TextDecoderStream())) {
        stderr += text;
        if (stderr.includes("waiting")) Deno.writeTextFileSync(join(place, "told"), "");
      }
      const stdout = await new Response(process.stdout).text();
      return { code: (await process.status).code, stdout, stderr };
    };
    const results = await Promise.all([start(), start()]);
    for (const { code, stdout, stderr } of results) {
      assert.deepEqual([code, stdout.split("\n")[0]], [0, "deno:run"], stderr);
    }
    assert.equal(Deno.readTextFileSync(join(place, "log")), "begin\nend\n");
    const stderr = results.map(({ stderr }) => stderr).join("");
    assert.match(stderr, /waiting for another \.\/toy that installs, process-\d+\n/);
    assert.ok(![...Deno.readDirSync(place)].some(({ name }) => name.startsWith("toy-")));
  },
});

Deno.test({
  name: "toy answers --help and a mistyped name without a driver, and installs none",
  ignore,
  async fn() {
    const { place, command } = toyWith("help", BARE);
    for (const word of ["--help", "trian"]) {
      const { code, stdout } = await outputOf(command([word], { VK_DRIVER_FILES: "" }));
      assert.deepEqual([code, stdout.split("\n")[0]], [0, "deno:run"]);
    }
    assert.ok(!exists(join(place, "log")));
  },
});

/** The id of a process that has died: above all that a system gives, so that no other has it meanwhile. */
const DEAD = 99_999_999;

Deno.test({
  name: "toy takes over the lock of a process that has died",
  ignore,
  async fn() {
    const { place, command } = toyWith("stale", BARE);
    Deno.symlinkSync(`process-${DEAD}`, join(place, "toy-0.lock"));
    const { code, stderr } = await outputOf(command(["doctor"], { VK_DRIVER_FILES: "" }));
    assert.equal(code, 0, stderr);
    assert.equal(Deno.readTextFileSync(join(place, "log")), "begin\nend\n");
    assert.ok(!exists(join(place, "toy-0.lock")));
  },
});

Deno.test({
  name: "toy lets one of several processes take over the lock of a process that has died",
  ignore,
  async fn() {
    const rm = ["/usr/bin/rm", "/bin/rm"].find(exists);
    const { place, command } = toyWith("stale-together", {
      ...BARE,
      // slow, so that all have found the dead process before the first removes its lock
      rm:
        `for file; do case $file in *.lock) /bin/sleep 0.$(($$ % 5)) ;; esac; done; exec ${rm} "$@"`,
    });
    Deno.symlinkSync(`process-${DEAD}`, join(place, "toy-0.lock"));
    const start = () => outputOf(command(["doctor"], { VK_DRIVER_FILES: "" }));
    for (const { code, stderr } of await Promise.all([1, 2, 3, 4].map(start))) {
      assert.equal(code, 0, stderr);
    }
    assert.equal(Deno.readTextFileSync(join(place, "log")), "begin\nend\n");
    assert.ok(![...Deno.readDirSync(place)].some(({ name }) => name.startsWith("toy-")));
  },
});
