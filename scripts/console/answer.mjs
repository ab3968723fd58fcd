// The program that the server runs for each message when slowModel() of models.mjs is behind it: hands the question to the
// test, and writes what the test says.
import net from "node:net";
import readline from "node:readline";

const connection = net.connect(process.argv[2]);
process.stdin.pipe(connection, { end: false });
// The test is over.
connection.on("error", () => process.exit(1));
connection.on("close", () => process.exit(1));
readline.createInterface({ input: connection }).on("line", (line) => {
  const [kind, text] = JSON.parse(line);
  if (kind === "say") process.stdout.write(text);
  else if (kind === "end") process.exit(0);
  else {
    console.error(text);
    process.exit(1);
  }
});
