/** A key-encryption key as it is configured. */
export interface EncryptionKey {
  /** Stands in every value that the key seals. */
  readonly kid: string;
  /** 32 bytes. */
  readonly key: Buffer;
}

const keyBytes = 32;
const kids = /^[A-Za-z0-9_-]{1,40}$/;
const base64 = /^[A-Za-z0-9+/_-]{43}=?$/;

export const isKid = (text: string): boolean => kids.test(text);

/**
 * Reads `kid:key,kid:key`, the current one first; a key is 32 bytes in base64 or base64url. Line ends and white space
 * around the parts do not count.
 * @returns the keys, or what is wrong, which never shows a key
 */
export function parseKeys(text: string): readonly EncryptionKey[] | string {
  const parts = text
    .split(/[,\n]/)
    .map((part) => part.trim())
    .filter((part) => part !== '');
  const keys: EncryptionKey[] = [];
  for (const [index, part] of parts.entries()) {
    const at = part.indexOf(':');
    const kid = part.slice(0, Math.max(at, 0));
    const encoded = part.slice(at + 1);
    if (!isKid(kid))
      return `key ${index + 1} needs an id of 1 to 40 letters, digits, dashes and underscores, and a colon`;
    const key = base64.test(encoded) ? Buffer.from(encoded, 'base64') : Buffer.alloc(0);
    if (key.length !== keyBytes) return `key ${index + 1} must be ${keyBytes} bytes in base64`;
    if (keys.some((one) => one.kid === kid)) return `key ${index + 1} has the id of an earlier one`;
    keys.push({ kid, key });
  }
  return keys.length > 0 ? keys : 'must be kid:base64, comma-separated, the current key first';
}

/** A key-encryption key that stays in AWS KMS. */
export interface KmsKey {
  /** Stands in every value that the key seals. */
  readonly kid: string;
  /** Of the key itself, not of an alias, which could lead elsewhere one day. */
  readonly arn: string;
  readonly region: string;
}

/**
 * Reads `kid=arn,kid=arn`, the current one first.
 * @returns the keys, or what is wrong
 * @see https://docs.aws.amazon.com/kms/latest/developerguide/concepts.html#key-id-key-ARN
 */
export function parseKmsKeys(text: string): readonly KmsKey[] | string {
  const keys: KmsKey[] = [];
  for (const part of text.split(',').map((one) => one.trim())) {
    const at = part.indexOf('=');
    const [kid, arn] = [part.slice(0, Math.max(at, 0)), part.slice(at + 1)];
    const region = /^arn:aws[\w-]*:kms:([a-z0-9-]+):\d{12}:key\/[A-Za-z0-9-]+$/.exec(arn)?.[1];
    if (!isKid(kid) || region === undefined)
      return 'must be id=ARN, comma-separated, the current key first; an ARN of a key, not of an alias';
    if (keys.some((one) => one.kid === kid)) return `has the id ${kid} twice`;
    keys.push({ kid, arn, region });
  }
  return keys;
}
