import { join } from "node:path";
import { isDawnInstalled } from "../files/packages.ts";

/** Where Chromium and Chrome keep SwiftShader, a driver of Vulkan that computes on the CPU. */
const FOLDERS = ["/usr/lib/chromium", "/usr/lib/chromium-browser", "/opt/google/chrome"];

/** The description of SwiftShader that Vulkan's loader reads; undefined on machines that have none. */
const driver = FOLDERS.map((folder) => join(folder, "vk_swiftshader_icd.json")).find((path) => {
  try {
    return Deno.statSync(path).isFile;
  } catch {
    return false;
  }
});

/** Whether Dawn can compute on SwiftShader here. `.ci/run` installs both, and fails on Linux if it cannot. */
export const HAS_DAWN = driver !== undefined && isDawnInstalled();

/** The environment of a process in which every provider computes on SwiftShader. */
export const SWIFTSHADER = { VK_DRIVER_FILES: driver ?? "" };
