import assert from "node:assert/strict";
import { join } from "node:path";
import { dirname, fromFileUrl } from "../paths.ts";

const root = dirname(dirname(dirname(fromFileUrl(import.meta.url))));
const directory = Deno.makeTempDirSync();
globalThis.addEventListener("unload", () => Deno.removeSync(directory, { recursive: true }));

/** `unshare`, of which a test allows some ways, and `mount`, which hides a file by removing it. */
const TOOLS = {
  unshare: `for word in "$@"; do
      case $word in
        --*) ways="\${ways:-}$word " ;;
        *) break ;;
      esac
      shift
    done
    case $ALLOWED in *"[$ways]"*) exec "$@" ;; esac
    exit 1`,
  mount: `[ "$1 $2" = "--bind /dev/null" ] && echo "$3" >>"$PLACE/hidden"`,
  id: "echo 7",
  uname: "echo here",
};
const AS_ROOT = "[--mount ]", AS_USER = "[--mount --map-root-user ]";
const BACK = "[--user --map-user=7 --map-group=7 ]";

/** A host with GPUs at these addresses, NVIDIA's or those that Mesa drives, by the PCI numbers of their kind. */
function hostWith(
  name: string,
  { nvidia = [], mesa = [] }: {
    nvidia?: readonly string[];
    mesa?: readonly (readonly [address: string, kind: string])[];
  },
) {
  const place = join(directory, name), bin = join(place, "bin");
  const write = (path: string, text: string, mode = 0o644) => {
    Deno.mkdirSync(dirname(join(place, path)), { recursive: true });
    Deno.writeTextFileSync(join(place, path), text, { mode });
  };
  for (const [tool, body] of Object.entries(TOOLS)) {
    write(`bin/${tool}`, `#!/bin/sh\n${body}\n`, 0o755);
  }
  for (const [i, address] of nvidia.entries()) {
    write(`dev/nvidia${i}`, "");
    write(`proc/driver/nvidia/gpus/${address}/information`, `Model: \t A\nDevice Minor: \t ${i}\n`);
  }
  for (const [i, [address, kind]] of mesa.entries()) {
    const node = `renderD${128 + i}`, [vendor, device] = kind.split(":");
    write(`dev/dri/${node}`, "");
    write(`devices/${address}/vendor`, `${vendor}\n`);
    write(`devices/${address}/device`, `${device}\n`);
    Deno.mkdirSync(join(place, "sys/class/drm", node), { recursive: true });
    Deno.symlinkSync(join(place, "devices", address), join(place, "sys/class/drm", node, "device"));
  }
  const text = Deno.readTextFileSync(join(root, "distributed", "own_gpu.sh"));
  const moved = text.replaceAll(
    /(?<= )\/(dev\/(?:nvidia|dri)|proc\/driver|sys\/class|usr\/share)/g,
    `${place}/$1`,
  )
    .replaceAll("=/dev/dri", `=${place}/dev/dri`);
  write("own_gpu.sh", moved);
  /** What a rank finds, and which files are hidden from it. */
  const rank = async (localRank: number, env: Record<string, string> = {}) => {
    const hidden = join(place, "hidden");
    Deno.writeTextFileSync(hidden, "");
    const { stdout, stderr, success } = await new Deno.Command("sh", {
      args: [
        join(place, "own_gpu.sh"),
        "sh",
        "-c",
        `echo "$TOY_GPU_ADDRESS|$DRI_PRIME|$1"`,
        "",
        "an argument",
      ],
      clearEnv: true,
      env: {
        PATH: `${bin}:/usr/bin:/bin`,
        PLACE: place,
        ALLOWED: AS_ROOT,
        OMPI_COMM_WORLD_LOCAL_RANK: `${localRank}`,
        OMPI_COMM_WORLD_LOCAL_SIZE: "3",
        OMPI_COMM_WORLD_SIZE: "3",
        ...env,
      },
    }).output();
    const decode = (bytes: Uint8Array) => new TextDecoder().decode(bytes).trim();
    assert.ok(success, decode(stderr));
    const [address, prime, argument] = decode(stdout).split("|");
    assert.equal(argument, "an argument");
    const files = [...new Set(Deno.readTextFileSync(hidden).trim().split("\n"))];
    return {
      address,
      prime,
      hidden: files.map((file) => file.replace(/.*\//, "")).join(" "),
      stderr: decode(stderr),
    };
  };
  return { place, write, rank };
}

const ignore = Deno.build.os !== "linux";

Deno.test({
  name: "own_gpu.sh hides from each local rank all GPUs but its own",
  ignore,
  async fn() {
    const { rank } = hostWith("nvidia", { nvidia: ["0000:1b:00.0", "0000:43:00.0"] });
    const own = (address: string, hidden: string) => ({ address, prime: "", hidden, stderr: "" });
    const [first, second] = [own("0000:1b:00.0", "nvidia1"), own("0000:43:00.0", "nvidia0")];
    assert.deepEqual([await rank(0), await rank(1), await rank(2)], [first, second, first]);
    assert.deepEqual(await rank(1, { ALLOWED: `${AS_USER}${BACK}` }), second);
    const slurm = {
      OMPI_COMM_WORLD_LOCAL_RANK: "",
      OMPI_COMM_WORLD_LOCAL_SIZE: "",
      OMPI_COMM_WORLD_SIZE: "",
    };
    assert.deepEqual(await rank(0, { ...slurm, SLURM_LOCALID: "1" }), second);
    const { address } = await rank(1, { OMPI_COMM_WORLD_SIZE: "6" });
    assert.equal(address, "0000:43:00.0 of here");
  },
});

Deno.test({
  name: "own_gpu.sh divides the GPUs that CUDA_VISIBLE_DEVICES lists",
  ignore,
  async fn() {
    const { rank } = hostWith("listed", {
      nvidia: ["0000:01:00.0", "0000:02:00.0", "0000:03:00.0"],
    });
    const addresses = async (
      CUDA_VISIBLE_DEVICES: string,
    ) => [
      (await rank(0, { CUDA_VISIBLE_DEVICES })).address,
      (await rank(1, { CUDA_VISIBLE_DEVICES })).address,
    ];
    assert.deepEqual(await addresses("2,0"), ["0000:03:00.0", "0000:01:00.0"]);
    assert.deepEqual(await addresses("1"), ["0000:02:00.0", "0000:02:00.0"]);
    for (const other of ["GPU-8932f937", "7", ""]) {
      assert.deepEqual(await addresses(other), ["0000:01:00.0", "0000:02:00.0"], other);
    }
  },
});

Deno.test({
  name: "own_gpu.sh changes nothing if there is one rank or one GPU, or the user has chosen",
  ignore,
  async fn() {
    const nothing = { address: "", prime: "", hidden: "", stderr: "" };
    const two = hostWith("two", { nvidia: ["0000:01:00.0", "0000:02:00.0"] });
    assert.deepEqual(await two.rank(0, { OMPI_COMM_WORLD_LOCAL_SIZE: "1" }), nothing);
    assert.deepEqual(await two.rank(0, { OMPI_COMM_WORLD_LOCAL_RANK: "" }), nothing);
    const DRI_PRIME = "pci-0000_02_00_0";
    assert.deepEqual(await two.rank(1, { DRI_PRIME }), { ...nothing, prime: DRI_PRIME });
    assert.deepEqual(await hostWith("one", { nvidia: ["0000:01:00.0"] }).rank(1), nothing);
    assert.deepEqual(await hostWith("none", {}).rank(1), nothing);
    const kinds = [["0000:01:00.0", "0x1002:0x1"], ["0000:02:00.0", "0x8086:0x2"]] as const;
    assert.deepEqual(await hostWith("unequal", { mesa: kinds }).rank(1), nothing);
  },
});

Deno.test({
  name: "own_gpu.sh divides equal GPUs that Mesa drives, and not the one in the processor",
  ignore,
  async fn() {
    const { rank } = hostWith("mesa", {
      mesa: [["0000:00:02.0", "0x8086:0x2"], ["0000:03:00.0", "0x1002:0x1"], [
        "0000:04:00.0",
        "0x1002:0x1",
      ]],
    });
    const own = (address: string, hidden: string) => ({ address, prime: "", hidden, stderr: "" });
    assert.deepEqual(await rank(0), own("0000:03:00.0", "renderD130"));
    assert.deepEqual(await rank(1), own("0000:04:00.0", "renderD129"));
  },
});

Deno.test({
  name:
    "own_gpu.sh asks Mesa's layer where it may not mount, and says on one rank if that is missing, too",
  ignore,
  async fn() {
    const { rank, write } = hostWith("container", { nvidia: ["0000:1b:00.0", "0000:43:00.0"] });
    for (const ALLOWED of ["", AS_USER]) { // a system may allow the first namespace and not the second
      const { address, hidden, stderr } = await rank(0, { ALLOWED });
      assert.deepEqual([address, ALLOWED === "" ? hidden : ""], ["", ""]);
      assert.match(
        stderr,
        /^toy: cannot give each rank its own GPU, so that ranks share one: /,
      );
      assert.equal((await rank(1, { ALLOWED })).stderr, "");
    }
    write("usr/share/vulkan/implicit_layer.d/VkLayer_MESA_device_select.json", "");
    assert.deepEqual(await rank(1, { ALLOWED: "" }), {
      address: "0000:43:00.0 if Mesa's layer selects it",
      prime: "pci-0000_43_00_0",
      hidden: "",
      stderr: "",
    });
  },
});
