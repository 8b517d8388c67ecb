import { isUtf8 } from 'node:buffer';
import { chunksOf, readBytes, type OpenFile } from '../raw.ts';

/** What bytes of text are in. */
export interface Encoding {
  /** A label of the Encoding standard. */
  readonly label: string;
  /** It is likely, and not certain: no byte order mark says it, and it is not UTF-8. */
  readonly guessed: boolean;
}

const sampleBytes = 65_536;

/** The byte order mark, or null. */
export function markOf(bytes: Uint8Array): string | null {
  if (bytes[0] === 0xef && bytes[1] === 0xbb && bytes[2] === 0xbf) return 'utf-8';
  if (bytes[0] === 0xff && bytes[1] === 0xfe) return 'utf-16le';
  if (bytes[0] === 0xfe && bytes[1] === 0xff) return 'utf-16be';
  return null;
}

/** UTF-16 of a text with many Latin letters has a zero byte beside each; other text has none. */
export function wideOf(bytes: Uint8Array): 'utf-16le' | 'utf-16be' | null {
  let even = 0;
  let odd = 0;
  const pairs = Math.floor(bytes.length / 2);
  for (let at = 0; at < pairs * 2; at += 2) {
    if (bytes[at] === 0) even += 1;
    if (bytes[at + 1] === 0) odd += 1;
  }
  if (pairs < 4) return null;
  if (odd > pairs * 0.4 && even < pairs * 0.02) return 'utf-16le';
  return even > pairs * 0.4 && odd < pairs * 0.02 ? 'utf-16be' : null;
}

/** Where the last character that is cut off begins: what is before it can be judged. */
function wholeCharacters(bytes: Buffer): number {
  for (let back = 1; back <= Math.min(3, bytes.length); back++) {
    const byte = bytes[bytes.length - back] ?? 0;
    if (byte < 0x80) return bytes.length;
    if (byte >= 0xc0) return bytes.length - back;
  }
  return bytes.length;
}

async function allUtf8(file: OpenFile): Promise<boolean> {
  let rest = Buffer.alloc(0);
  for await (const chunk of chunksOf(file, 1_048_576)) {
    const bytes = rest.length > 0 ? Buffer.concat([rest, chunk]) : chunk;
    const whole = wholeCharacters(bytes);
    if (!isUtf8(bytes.subarray(0, whole))) return false;
    rest = Buffer.from(bytes.subarray(whole));
  }
  return rest.length === 0;
}

/** Labels of the detector that TextDecoder has by another name, or not at all. */
const usable = (label: string): string | null => {
  try {
    return new TextDecoder(label).encoding;
  } catch {
    return null; // RangeError: not one of the Encoding standard
  }
};

/**
 * What a text file is in. UTF-8 is a fact: the whole file is looked at. What is neither that nor UTF-16 is guessed from
 * the frequency of letters, and windows-1252 when that says nothing.
 */
export async function encodingOf(file: OpenFile, told?: string): Promise<Encoding> {
  if (told !== undefined) return { label: told, guessed: false };
  const sample = await readBytes(file, 0, sampleBytes);
  const mark = markOf(sample);
  if (mark) return { label: mark, guessed: false };
  const wide = wideOf(sample);
  if (wide) return { label: wide, guessed: true };
  if (await allUtf8(file)) return { label: 'utf-8', guessed: false };
  const { default: chardet } = await import('chardet');
  const high = sample.some((byte) => byte >= 0x80);
  // Letters tell something only where there are some beyond ASCII.
  const label = high ? usable(chardet.detect(sample) ?? '') : null;
  return { label: label === null || label === 'utf-8' ? 'windows-1252' : label, guessed: true };
}

/** The file's text in pieces, without its byte order mark. */
export async function* textOf(file: OpenFile, label: string): AsyncGenerator<string> {
  const decoder = new TextDecoder(label);
  for await (const chunk of chunksOf(file)) {
    const text = decoder.decode(chunk, { stream: true });
    if (text) yield text;
  }
  const rest = decoder.decode();
  if (rest) yield rest;
}
