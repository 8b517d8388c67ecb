import { createCipheriv, createDecipheriv, createHash, randomBytes } from 'node:crypto';
import { SealBroken, UnknownKey } from './errors.ts';
import type { EncryptionKey } from './keys.ts';

/**
 * The key-encryption keys: a port, so that they can stay in a key management service and never come here. It is called
 * within transactions too: one that asks over a network keeps what it needs at hand, and takes its time-outs from there.
 */
export interface KeyRing {
  /** Id of the key that new values are sealed by. */
  readonly current: string;
  knows(kid: string): boolean;
  /** @param context is authenticated, and needed again to unwrap */
  wrap(dataKey: Buffer, context: string): Promise<Buffer>;
  /**
   * @throws {UnknownKey}
   * @throws {SealBroken} when it is not what `wrap` gave for this key and context
   */
  unwrap(kid: string, wrapped: Buffer, context: string): Promise<Buffer>;
}

const cipher = 'aes-256-gcm';
/** The length that GCM is made for. @see https://doi.org/10.6028/NIST.SP.800-38D section 5.2.1.1 */
const ivBytes = 12;
/** The longest, 128 bits; a shorter one is never accepted. @see https://doi.org/10.6028/NIST.SP.800-38D section 5.2.1.2 */
const tagBytes = 16;

export interface Encrypted {
  readonly iv: Buffer;
  /** Ciphertext and tag. */
  readonly data: Buffer;
}

/**
 * AES-256-GCM with a random initialization vector. One key must not encrypt more than 2^32 texts that way: a data key
 * encrypts one, a key-encryption key one data key for each sealed value.
 * @see https://doi.org/10.6028/NIST.SP.800-38D sections 8.2.2 and 8.3
 */
export function encrypt(key: Buffer, plain: Uint8Array, authenticated: string): Encrypted {
  const iv = randomBytes(ivBytes);
  const stream = createCipheriv(cipher, key, iv, { authTagLength: tagBytes });
  stream.setAAD(Buffer.from(authenticated));
  return { iv, data: Buffer.concat([stream.update(plain), stream.final(), stream.getAuthTag()]) };
}

/** @throws when anything of it is not what `encrypt` gave */
export function decrypt(key: Buffer, { iv, data }: Encrypted, authenticated: string): Buffer {
  if (iv.length !== ivBytes || data.length < tagBytes) throw new RangeError('too short, or too long');
  const stream = createDecipheriv(cipher, key, iv, { authTagLength: tagBytes });
  stream.setAAD(Buffer.from(authenticated));
  stream.setAuthTag(data.subarray(data.length - tagBytes));
  return Buffer.concat([stream.update(data.subarray(0, data.length - tagBytes)), stream.final()]);
}

const authenticated = (kid: string, context: string): string => `switchyard key ${kid} ${context}`;

/** A data key under another key, which the id names: initialization vector, ciphertext and tag. */
export function wrapWith(key: Buffer, kid: string, dataKey: Buffer, context: string): Buffer {
  const { iv, data } = encrypt(key, dataKey, authenticated(kid, context));
  return Buffer.concat([iv, data]);
}

/** @throws {SealBroken} when it is not what `wrapWith` gave for these */
export function unwrapWith(key: Buffer, kid: string, wrapped: Buffer, context: string): Buffer {
  const parts = { iv: wrapped.subarray(0, ivBytes), data: wrapped.subarray(ivBytes) };
  try {
    return decrypt(key, parts, authenticated(kid, context));
  } catch {
    throw new SealBroken(context); // what exactly did not fit tells nobody anything
  }
}

/** A key ring of the keys that the configuration gives; the first one is current. */
export function configuredKeys(keys: readonly EncryptionKey[]): KeyRing {
  const byId = new Map(keys.map(({ kid, key }) => [kid, key]));
  const keyOf = (kid: string): Buffer => {
    const key = byId.get(kid);
    if (!key) throw new UnknownKey(kid);
    return key;
  };
  const current = keys[0]?.kid;
  if (current === undefined) throw new TypeError('A key ring needs a key');
  return {
    current,
    knows: (kid) => byId.has(kid),
    wrap: async (dataKey, context) => wrapWith(keyOf(current), current, dataKey, context),
    unwrap: async (kid, wrapped, context) => unwrapWith(keyOf(kid), kid, wrapped, context),
  };
}

/** One ring of two: the first one's current key seals, both open. For the way from one source of keys to another. */
export const bothRings = (first: KeyRing, second: KeyRing): KeyRing => ({
  ...first,
  knows: (kid) => first.knows(kid) || second.knows(kid),
  unwrap: (kid, wrapped, context) => (first.knows(kid) ? first : second).unwrap(kid, wrapped, context),
});

/**
 * The key of a host that was given none: its id is derived from it, so that hosts with different ones notice it.
 * @param secret 32 bytes in base64url
 */
export function generatedKey(secret: string): EncryptionKey {
  const key = Buffer.from(secret, 'base64url');
  return { kid: `local-${createHash('sha256').update(key).digest('hex').slice(0, 8)}`, key };
}
