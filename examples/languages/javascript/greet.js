// Greets whom the payload names.
import { write } from "tripline:function/log@0.1.0";
import { publish } from "tripline:function/messaging@0.1.0";
import { get } from "tripline:function/environment@0.1.0";
import { decode, encode } from "./utf8.js";

export function handle(context, payload) {
  const name = decode(payload);
  if (name === "") throw { tag: "permanent", val: "the payload names nobody to greet" };
  write("info", `greeting ${name}`);
  publish({ subject: "greetings.sent", headers: [], payload });
  return encode(`${get("GREETING") ?? "Hello"}, ${name}!\n`);
}
