// Greets whom the payload names: a WASI command.

/** The input is wrong and will be wrong next time (EX_DATAERR of sysexits.h): a failure for good. */
const DATA_ERROR = 65;

/** Everything on stdin. */
function input(): string {
  let bytes = new ArrayBuffer(4096), length = 0, read = 0;
  while ((read = process.stdin.read(bytes, length)) > 0) {
    length += read;
    if (length == bytes.byteLength) {
      const larger = new ArrayBuffer(2 * length);
      memory.copy(changetype<usize>(larger), changetype<usize>(bytes), length);
      bytes = larger;
    }
  }
  return String.UTF8.decode(bytes.slice(0, length));
}

const name = input();
if (name.length == 0) {
  process.stderr.write("the payload names nobody to greet\n");
  process.exit(DATA_ERROR);
}
process.stderr.write("greeting " + name + "\n");
const greeting = process.env.has("GREETING") ? process.env.get("GREETING") : "Hello";
process.stdout.write(greeting + ", " + name + "!\n");
