import { argon2, createHash, createHmac, hash as hashOf, randomBytes, timingSafeEqual } from 'node:crypto';
import { promisify } from 'node:util';
import { crc32 } from 'node:zlib';

const argon2id = promisify(argon2);

/**
 * Derivations at once: half of libuv's threads. The others check the tokens of whoever is signed in, and read files;
 * a flood of sign-ins must not hold those up.
 */
const mostDerivations = 2;
let deriving = 0;
const waiting: (() => void)[] = [];

/** Each in its turn. */
const derive: typeof argon2id = async (...of) => {
  if (deriving >= mostDerivations) await new Promise<void>((resolve) => waiting.push(resolve));
  else deriving++;
  try {
    return await argon2id(...of);
  } finally {
    // The place goes to the next one, or is free.
    const next = waiting.shift();
    if (next) next();
    else deriving--;
  }
};

/**
 * Memory in KiB, with two passes and one lane: the OWASP recommendation for argon2id.
 * @see https://cheatsheetseries.owasp.org/cheatsheets/Password_Storage_Cheat_Sheet.html
 */
export const passwordMemoryKib = 19_456;
const current = { t: 2, p: 1 } as const;
const saltBytes = 16;
const hashBytes = 32;

interface PasswordHash {
  readonly m: number;
  readonly t: number;
  readonly p: number;
  readonly salt: Buffer;
  readonly hash: Buffer;
}

/** Same bytes for the same characters, however the keyboard composed them (NIST SP 800-63B, 5.1.1.2). */
const passwordBytes = (password: string): Buffer => Buffer.from(password.normalize('NFKC'), 'utf8');

const unpadded = (bytes: Buffer): string => bytes.toString('base64').replaceAll('=', '');

/**
 * The password's argon2id hash as a PHC string, `$argon2id$v=19$m=19456,t=2,p=1$<salt>$<hash>`. Takes about 0.1 s on a
 * thread of libuv's pool, not on the event loop, and waits while {@link mostDerivations} others do.
 * @see https://github.com/P-H-C/phc-string-format/blob/master/phc-sf-spec.md
 */
export async function hashPassword(password: string, memoryKib = passwordMemoryKib): Promise<string> {
  const salt = randomBytes(saltBytes);
  const hash = await derive('argon2id', {
    message: passwordBytes(password),
    nonce: salt,
    parallelism: current.p,
    tagLength: hashBytes,
    memory: memoryKib,
    passes: current.t,
  });
  return `$argon2id$v=19$m=${memoryKib},t=${current.t},p=${current.p}$${unpadded(salt)}$${unpadded(hash)}`;
}

/**
 * Whether the password is the one that was hashed. For a user that does not exist, or has no password, pass null: the
 * answer is false after as much work, so that the time does not tell.
 *
 * @param stored a PHC string made by {@link hashPassword}, or by another argon2id within the bounds below
 * @throws Error when `stored` is not such a string: a row that somebody damaged, not a wrong password
 */
export async function verifyPassword(
  stored: string | null,
  password: string,
  memoryKib = passwordMemoryKib,
): Promise<boolean> {
  const expected =
    stored === null
      ? { ...current, m: memoryKib, salt: Buffer.alloc(saltBytes), hash: Buffer.alloc(hashBytes) }
      : parsePhc(stored);
  const actual = await derive('argon2id', {
    message: passwordBytes(password),
    nonce: expected.salt,
    parallelism: expected.p,
    tagLength: expected.hash.length,
    memory: expected.m,
    passes: expected.t,
  });
  return timingSafeEqual(actual, expected.hash) && stored !== null;
}

/** Whether the hash was made with other parameters than today's: after a successful sign-in, hash again. */
export function needsRehash(stored: string, memoryKib = passwordMemoryKib): boolean {
  const { m, t, p, salt, hash } = parsePhc(stored);
  return m !== memoryKib || t !== current.t || p !== current.p || salt.length < saltBytes || hash.length < hashBytes;
}

function parsePhc(stored: string): PasswordHash {
  const match =
    /^\$argon2id\$v=19\$m=(\d{1,7}),t=(\d{1,2}),p=(\d{1,2})\$([A-Za-z0-9+/]{11,86})\$([A-Za-z0-9+/]{22,86})$/.exec(
      stored,
    );
  const [m, t, p] = (match ?? []).slice(1, 4).map(Number);
  const [salt, hash] = (match ?? []).slice(4).map((part) => Buffer.from(part, 'base64'));
  // The upper bounds keep a damaged row from taking the machine's memory.
  if (!m || !t || !p || !salt || !hash || m < 8 * p || m > 1_048_576 || t > 16 || p > 16) {
    throw new Error('A stored password hash is not an argon2id PHC string');
  }
  return { m, t, p, salt, hash };
}

/** A new API key. Only `prefix` (to recognise it by) and `hash` are stored; `key` is shown once. */
export interface NewApiKey {
  /** `sy_`, 43 base64url characters, which carry 256 random bits, and 6 base62 digits, the CRC-32 of what is before. */
  readonly key: string;
  /** Its first 11 characters. */
  readonly prefix: string;
  /** See {@link hashApiKey}. */
  readonly hash: string;
}

/** Makes an API key. */
export function newApiKey(): NewApiKey {
  const body = `sy_${randomBytes(32).toString('base64url')}`;
  const key = body + checksum(body);
  return { key, prefix: key.slice(0, 11), hash: hashApiKey(key) };
}

/**
 * Whether a text can be an API key: what a slip of the hand or a scanner brings is refused without a look-up. Keys of
 * before had no checksum.
 * @see https://github.blog/engineering/platform-security/behind-githubs-new-authentication-token-formats/
 */
export function isApiKey(text: string): boolean {
  const [, body, sum] = /^(sy_[\w-]{43})([0-9A-Za-z]{6})?$/.exec(text) ?? [];
  return body !== undefined && (sum === undefined || sum === checksum(body));
}

const base62 = '0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz';

function checksum(text: string): string {
  let digits = '';
  for (let rest = crc32(text); digits.length < 6; rest = Math.floor(rest / 62))
    digits = base62.charAt(rest % 62) + digits;
  return digits;
}

/** A secret of 256 random bits that is told once and stored as its hash, as in a mail or a receipt. */
export function newToken(): { readonly token: string; readonly hash: string } {
  const token = randomBytes(32).toString('base64url');
  return { token, hash: hashToken(token) };
}

/** A token that the same words always give, and that nobody guesses without the secret: HMAC-SHA-256, 43 characters. */
export function tokenOf(secret: string, ...words: readonly string[]): string {
  const derived = createHmac('sha256', secret).update('switchyard token').digest();
  return createHmac('sha256', derived).update(JSON.stringify(words)).digest('base64url');
}

/** SHA-256 of a token, hexadecimal; like that of a key, there is nothing to guess. */
export const hashToken = (token: string): string => sha256Hex(token);

/** SHA-256 of a key, hexadecimal. No salt and no stretching: a key has 256 random bits, so there is nothing to guess. */
export const hashApiKey = (key: string): string => sha256Hex(key);

/** SHA-256 in 64 lower-case hexadecimal digits; a text is taken as UTF-8. */
export const sha256Hex = (data: string | Uint8Array): string => hashOf('sha256', data);

/** Whether two texts are the same, in a time that does not depend on where they differ. */
export function timingSafeEqualText(a: string, b: string): boolean {
  return timingSafeEqual(digest(a), digest(b));
}

const digest = (text: string): Buffer => createHash('sha256').update(text).digest();

const maxDepth = 500;

/**
 * JSON with object members in the order of their names' UTF-16 code units and no white space, so that equal values give
 * equal texts. Like JSON.stringify it calls `toJSON` and leaves out members that are undefined; unlike it, it refuses
 * what has no JSON form instead of writing null.
 *
 * @throws TypeError for NaN, an infinity, a bigint, a function, a symbol, undefined outside an object, a cycle, or more
 *   than 500 levels
 * @see https://www.rfc-editor.org/rfc/rfc8785
 */
export const canonicalJson = (value: unknown): string => write(value, 0);

function write(given: unknown, depth: number): string {
  if (depth > maxDepth) throw new TypeError('A value that is nested too deeply, or contains itself, has no JSON form');
  const value = isJsonable(given) ? given.toJSON() : given;
  if (value === null || typeof value === 'string' || typeof value === 'boolean') return JSON.stringify(value);
  if (typeof value === 'number' && Number.isFinite(value)) return JSON.stringify(value);
  if (Array.isArray(value)) return `[${value.map((item) => write(item, depth + 1)).join(',')}]`;
  if (typeof value === 'object') {
    const members = Object.entries(value)
      .filter(([, member]) => member !== undefined)
      .toSorted(([a], [b]) => (a < b ? -1 : 1));
    return `{${members.map(([name, member]) => `${JSON.stringify(name)}:${write(member, depth + 1)}`).join(',')}}`;
  }
  throw new TypeError(`${typeof value === 'number' ? String(value) : `A ${typeof value}`} has no JSON form`);
}

const isJsonable = (value: unknown): value is { toJSON(): unknown } =>
  typeof value === 'object' && value !== null && 'toJSON' in value && typeof value.toJSON === 'function';
