import { ProgressBar } from "../../commands/progress.ts";

// a child of progress_test.ts: shows a bar and prints lines
const bar = new ProgressBar();
bar.print("begin");
bar.update(1, 4, "one");
bar.print("a line");
bar.update(2, 4, "two");
bar.print("another");
bar.close();
