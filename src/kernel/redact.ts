import { StringDecoder } from 'node:string_decoder';
import { Transform } from 'node:stream';

const mask = '[redacted]';
/** A shorter value would mask ordinary text everywhere. */
const minLength = 6;
/** Least length of a part of a value: a line of it, or base64 digits that do not depend on what stands beside it. */
const minPartLength = 12;

/** Longer lines of output come in pieces of this many characters. */
export const pieceChars = 8_000;

export interface Redactor {
  /** The text with every secret in it replaced by `[redacted]`. Complete texts only: what is split needs `stream`. */
  redact(text: string): string;
  /** The same for a text that may be cut off: at its end 6 characters and more that begin a secret are masked, too. */
  redactCut(text: string): string;
  /**
   * A transform of UTF-8 text (Buffers or strings in, strings out) that also finds a secret that is split over chunks.
   * It holds back only what may be the start of a secret, and gives it out at the end.
   */
  stream(): Transform;
  /** The same by hand, for text that does not come as a stream. One for each text. */
  session(): { push(chunk: string): string; end(): string };
}

/**
 * Masks secret values in text: as they are, URL-encoded, as the inside of a JSON string, in base64 and base64url (alone
 * or within a longer encoded text, such as basic credentials), and each long line of a value that has several. A value of
 * fewer than 6 characters is ignored. It is the last line of defence, not a licence to print secrets: another encoding,
 * or a value with white space put into it, is not found.
 */
export function createRedactor(secrets: readonly string[]): Redactor {
  const patterns = [...new Set(secrets.filter((secret) => secret.length >= minLength).flatMap(forms))];
  const longest = Math.max(0, ...patterns.map((pattern) => pattern.length));

  const session = () => {
    let tail = '';
    /** How much of the tail belongs to a secret whose mask is already out. */
    let covered = 0;
    const advance = (chunk: string, last: boolean): string => {
      const text = tail + chunk;
      const hold = last ? text.length : startOfPossible(text, patterns, longest);
      let out = '';
      let at = covered;
      for (const { start, end } of spans(text, patterns, covered)) {
        if (start >= hold) break;
        out += text.slice(at, start);
        if (!(start === 0 && covered > 0)) out += mask;
        at = end;
      }
      if (at < hold) {
        out += text.slice(at, hold);
        at = hold;
      }
      tail = text.slice(hold);
      covered = at - hold;
      return out;
    };
    return { push: (chunk: string) => advance(chunk, false), end: () => advance('', true) };
  };

  return {
    session,
    redact(text) {
      const one = session();
      return one.push(text) + one.end();
    },
    redactCut(text) {
      const one = session();
      const out = one.push(text);
      const rest = one.end();
      return rest.length < minLength ? out + rest : out + mask;
    },
    stream() {
      const one = session();
      const decoder = new StringDecoder('utf8');
      return new Transform({
        decodeStrings: false,
        encoding: 'utf8',
        transform(chunk: Buffer | string, _encoding, done) {
          done(null, one.push(typeof chunk === 'string' ? chunk : decoder.write(chunk)));
        },
        flush(done) {
          done(null, one.push(decoder.end()) + one.end());
        },
      });
    },
  };
}

/** All the ways in which a value is looked for. */
function forms(secret: string): string[] {
  const url = encodeURIComponent(secret.toWellFormed());
  const lines = secret.split(/\r?\n/).filter((line) => line.trim().length >= minPartLength);
  const urls = [url, url.replaceAll('%20', '+'), url.replaceAll(/%[\dA-F]{2}/g, (escape) => escape.toLowerCase())];
  const base64 = [Buffer.from(secret).toString('base64'), ...base64Within(secret)];
  return [
    secret,
    ...lines,
    ...urls,
    JSON.stringify(secret).slice(1, -1),
    ...base64.flatMap((text) => [text, text.replace(/=+$/, ''), base64Url(text)]),
  ];
}

const base64Url = (text: string): string => text.replace(/=+$/, '').replaceAll('+', '-').replaceAll('/', '_');

/** The base64 digits that carry nothing but the value, for each of the three places at which it can start in a group. */
function base64Within(secret: string): string[] {
  const bytes = Buffer.from(secret);
  return [0, 1, 2]
    .map((before) => {
      const digits = Buffer.concat([Buffer.alloc(before), bytes]).toString('base64');
      return digits.slice(Math.ceil((before * 8) / 6), Math.floor(((before + bytes.length) * 8) / 6));
    })
    .filter((digits) => digits.length >= minPartLength);
}

/** The first place at which the text may hold the start of a pattern of which it does not have the end. */
function startOfPossible(text: string, patterns: readonly string[], longest: number): number {
  for (let start = Math.max(0, text.length - longest + 1); start < text.length; start++) {
    const rest = text.slice(start);
    if (patterns.some((pattern) => pattern.length > rest.length && pattern.startsWith(rest))) return start;
  }
  return text.length;
}

/** Where the text holds patterns, in order, overlapping ones merged; the first `covered` characters count as one. */
function spans(text: string, patterns: readonly string[], covered: number): { start: number; end: number }[] {
  const found = covered > 0 ? [{ start: 0, end: covered }] : [];
  for (const pattern of patterns) {
    for (let start = text.indexOf(pattern); start !== -1; start = text.indexOf(pattern, start + 1)) {
      found.push({ start, end: start + pattern.length });
    }
  }
  const merged: { start: number; end: number }[] = [];
  for (const { start, end } of found.toSorted((a, b) => a.start - b.start)) {
    const last = merged.at(-1);
    if (last && start < last.end) last.end = Math.max(last.end, end);
    else merged.push({ start, end });
  }
  return merged;
}
