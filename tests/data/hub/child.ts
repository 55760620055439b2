import { hubFile } from "../../../data/hub/hub.ts";
import { STORIES } from "./server.ts";

/** Downloads the stories as the environment says, in a process that tests can end. */
const { path } = await hubFile(STORIES);
console.log(path);
