// Text from bytes and back: QuickJS has no TextDecoder and no TextEncoder.

/** The text of bytes in UTF-8. Bytes that are none are a permanent failure. */
export function decode(bytes) {
  let escaped = "";
  for (const byte of bytes) escaped += "%" + byte.toString(16).padStart(2, "0");
  try {
    return decodeURIComponent(escaped);
  } catch {
    throw { tag: "permanent", val: "the payload is no UTF-8 text" };
  }
}

/** The bytes of a text in UTF-8; half a surrogate pair becomes U+FFFD. */
export function encode(text) {
  const escaped = encodeURIComponent(text.toWellFormed());
  const bytes = [];
  for (let i = 0; i < escaped.length; i++) {
    if (escaped[i] === "%") {
      bytes.push(parseInt(escaped.slice(i + 1, i + 3), 16));
      i += 2;
    } else {
      bytes.push(escaped.charCodeAt(i));
    }
  }
  return Uint8Array.from(bytes);
}
