import { randomBytes } from 'node:crypto';
import { required } from '../app.ts';
import { SealBroken } from './errors.ts';
import { decrypt, encrypt, type KeyRing } from './key-ring.ts';
import { isKid } from './keys.ts';

/**
 * Envelope encryption of what must not stand in the database as it is. Each value has a data key of its own, which
 * encrypts it; the key ring encrypts the data key. The text is
 *
 *     v1.<key id>.<wrapped data key>.<initialization vector>.<ciphertext and tag>
 *
 * with the last three in base64url. The context (see `SealedColumn`) is authenticated twice, with the data key and with
 * the value: a text that is put into another row or column does not open. The length of a value shows, its content does not.
 * @see https://doi.org/10.6028/NIST.SP.800-38D
 */
export interface SealingService {
  /** Id of the key that new values are sealed by. */
  readonly currentKey: string;
  knowsKey(kid: string): boolean;
  /** @param context where it will stand, for instance `mail.content:<row id>` */
  seal(plain: string | Uint8Array, context: string): Promise<string>;
  /**
   * The bytes that were sealed.
   * @throws {UnknownKey} when the key that sealed it is not configured
   * @throws {SealBroken} when it was damaged, or stands where it was not sealed for
   */
  open(sealed: string, context: string): Promise<Buffer>;
  /** The same as text in UTF-8. @throws {UnknownKey} {SealBroken} */
  openText(sealed: string, context: string): Promise<string>;
  /**
   * The same value with its data key wrapped by the current key; the ciphertext stays as it is.
   * @throws {UnknownKey} {SealBroken}
   */
  rewrap(sealed: string, context: string): Promise<string>;
}

/** The encryption of secrets at rest, with the keys of this server. */
export const Sealing = required<SealingService>('sealing');

const version = 'v1';
const dataKeyBytes = 32;
/** A key management service may wrap into more than we do, but not into this much, base64url digits. */
const maxWrapped = 8192;

interface Parts {
  readonly kid: string;
  readonly wrapped: Buffer;
  readonly iv: Buffer;
  readonly data: Buffer;
}

const authenticated = (context: string): string => `switchyard value ${context}`;

const encode = (kid: string, wrapped: Buffer, iv: Buffer, data: Buffer): string =>
  [version, kid, ...[wrapped, iv, data].map((bytes) => bytes.toString('base64url'))].join('.');

/** @throws {SealBroken} unless it is in exactly the form that `encode` gives */
function decode(sealed: string, context: string): Parts {
  const [name, kid = '', ...encoded] = sealed.split('.');
  const [wrapped, iv, data] = encoded.map((text) => Buffer.from(text, 'base64url'));
  const whole = name === version && isKid(kid) && encoded.length === 3 && wrapped && iv && data;
  if (!whole || (encoded[0]?.length ?? 0) > maxWrapped || encode(kid, wrapped, iv, data) !== sealed) {
    throw new SealBroken(context);
  }
  return { kid, wrapped, iv, data };
}

export function createSealing(ring: KeyRing): SealingService {
  const unwrap = async ({ kid, wrapped }: Parts, context: string): Promise<Buffer> => {
    const dataKey = await ring.unwrap(kid, wrapped, context);
    if (dataKey.length !== dataKeyBytes) throw new SealBroken(context);
    return dataKey;
  };
  const open = async (sealed: string, context: string): Promise<Buffer> => {
    const parts = decode(sealed, context);
    const dataKey = await unwrap(parts, context);
    try {
      return decrypt(dataKey, parts, authenticated(context));
    } catch {
      throw new SealBroken(context); // what exactly did not fit tells nobody anything
    } finally {
      dataKey.fill(0);
    }
  };
  return {
    currentKey: ring.current,
    knowsKey: (kid) => ring.knows(kid),
    async seal(plain, context) {
      const dataKey = randomBytes(dataKeyBytes);
      try {
        const { iv, data } = encrypt(dataKey, Buffer.from(plain as string), authenticated(context));
        return encode(ring.current, await ring.wrap(dataKey, context), iv, data);
      } finally {
        dataKey.fill(0);
      }
    },
    open,
    openText: async (sealed, context) => (await open(sealed, context)).toString('utf8'),
    async rewrap(sealed, context) {
      const parts = decode(sealed, context);
      const dataKey = await unwrap(parts, context);
      try {
        return encode(ring.current, await ring.wrap(dataKey, context), parts.iv, parts.data);
      } finally {
        dataKey.fill(0);
      }
    },
  };
}
