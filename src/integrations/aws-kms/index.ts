import { createHash } from 'node:crypto';
import type { KMSClient, KMSClientConfig } from '@aws-sdk/client-kms';
import { Latest } from '#kernel/latest.ts';
import type { OutboundFetch } from '#kernel/outbound-fetch.ts';
import { SealBroken, UnknownKey } from '#kernel/sealing/errors.ts';
import { unwrapWith, wrapWith, type KeyRing } from '#kernel/sealing/key-ring.ts';
import type { KmsKey } from '#kernel/sealing/keys.ts';

/** The key management service did not do what it was asked for. Trying again later may help. */
export class KmsUnavailable extends Error {
  override readonly name = 'KmsUnavailable';
  readonly code = 'KMS_UNAVAILABLE';
  constructor(kid: string, cause: unknown) {
    super(`The key management service did not answer for the key ${kid} as it should: ${nameOf(cause)}`, { cause });
  }
}

export interface AwsKmsOptions {
  /** The current one first. */
  readonly keys: readonly KmsKey[];
  /** Bounded. */
  readonly fetch: OutboundFetch;
  /** In place of the region's own, for instance a VPC endpoint. */
  readonly endpoint?: string | undefined;
  /** Default: those that the SDK finds (environment, files, web identity, container, instance). */
  readonly credentials?: KMSClientConfig['credentials'];
  /** How long a data key is used, and kept in memory, milliseconds. */
  readonly maxAgeMs?: number;
  /** Data keys that are kept in memory at once. */
  readonly maxKept?: number;
}

export interface AwsKms extends KeyRing {
  /** Has the service make and decrypt a data key. @throws {KmsUnavailable} */
  check(): Promise<void>;
}

interface DataKey {
  readonly plain: Buffer;
  /** As the service encrypted it. */
  readonly blob: Buffer;
}

/**
 * Keys that never leave AWS KMS. KMS makes a data key, which this process keeps for an hour and wraps the keys of values
 * with, so that KMS is asked once an hour and not for each value. What it wraps is
 *
 *     length of the blob (2 bytes, big-endian) | blob of the data key from KMS | initialization vector | ciphertext and tag
 *
 * KMS binds the blob to the id of the key by its encryption context; the wrapping binds the value to its row and column.
 * A key that is disabled in KMS opens for an hour at most, where it was used last.
 * @see https://docs.aws.amazon.com/kms/latest/developerguide/encrypt_context.html
 */
export function createAwsKms(options: AwsKmsOptions): AwsKms {
  const { keys, maxAgeMs = 3_600_000, maxKept = 1000 } = options;
  const byId = new Map(keys.map((key) => [key.kid, key]));
  const [first] = keys;
  if (!first) throw new TypeError('A key ring needs a key');
  const current = first.kid;
  const encryptionContext = (kid: string) => ({ application: 'switchyard', key: kid });
  const clients = new Map<string, Promise<KMSClient>>();
  /** The one that wraps, and those that unwrap by key id and hash of the blob, oldest first. Each is asked for once. */
  let wrapping: Promise<DataKey> | null = null;
  const kept = new Latest<string, Promise<Buffer>>(maxKept);

  const sdk = () => import('@aws-sdk/client-kms');
  const clientOf = ({ region }: KmsKey): Promise<KMSClient> => {
    const client = clients.get(region) ?? connect(region, options);
    clients.set(region, client);
    return client;
  };

  const generate = async (): Promise<DataKey> => {
    try {
      const [client, { GenerateDataKeyCommand }] = await Promise.all([clientOf(first), sdk()]);
      const made = await client.send(
        new GenerateDataKeyCommand({
          KeyId: first.arn,
          KeySpec: 'AES_256',
          EncryptionContext: encryptionContext(current),
        }),
      );
      return { plain: Buffer.from(made.Plaintext ?? []), blob: Buffer.from(made.CiphertextBlob ?? []) };
    } catch (error) {
      throw new KmsUnavailable(current, error);
    }
  };

  const decrypt = async (key: KmsKey, blob: Buffer, context: string): Promise<Buffer> => {
    try {
      const [client, { DecryptCommand }] = await Promise.all([clientOf(key), sdk()]);
      const answer = await client.send(
        new DecryptCommand({
          KeyId: key.arn,
          CiphertextBlob: blob,
          EncryptionContext: encryptionContext(key.kid),
        }),
      );
      return Buffer.from(answer.Plaintext ?? []);
    } catch (error) {
      // Damaged, of another context, or of another key: nothing that a later try would change.
      if (['InvalidCiphertextException', 'IncorrectKeyException'].includes(nameOf(error)))
        throw new SealBroken(context);
      throw new KmsUnavailable(key.kid, error);
    }
  };

  const keep = (name: string, plain: Promise<Buffer>): void => {
    const forget = (): void => void (kept.get(name) === plain && kept.delete(name));
    kept.set(name, plain);
    plain.then(() => setTimeout(forget, maxAgeMs).unref(), forget);
  };
  const nameOfBlob = (kid: string, blob: Buffer): string => `${kid} ${createHash('sha256').update(blob).digest('hex')}`;

  const use = (made: DataKey): void => {
    const own = Promise.resolve(made);
    wrapping = own;
    keep(nameOfBlob(current, made.blob), Promise.resolve(made.plain));
    // Before it is old, so that no transaction waits for KMS; if that fails, the next one to wrap hears why.
    setTimeout(() => void generate().then(use, () => undefined), maxAgeMs / 2).unref();
    setTimeout(() => wrapping === own && (wrapping = null), maxAgeMs).unref();
  };
  const wrappingKey = (): Promise<DataKey> => {
    if (wrapping) return wrapping;
    const asked = generate();
    wrapping = asked;
    asked.then(use, () => wrapping === asked && (wrapping = null));
    return asked;
  };

  return {
    current,
    knows: (kid) => byId.has(kid),
    async wrap(dataKey, context) {
      const { plain, blob } = await wrappingKey();
      const length = Buffer.alloc(2);
      length.writeUInt16BE(blob.length);
      return Buffer.concat([length, blob, wrapWith(plain, current, dataKey, context)]);
    },
    async unwrap(kid, wrapped, context) {
      const key = byId.get(kid);
      if (!key) throw new UnknownKey(kid);
      const end = wrapped.length < 2 ? 0 : 2 + wrapped.readUInt16BE();
      if (end <= 2 || end >= wrapped.length) throw new SealBroken(context);
      const blob = wrapped.subarray(2, end);
      const name = nameOfBlob(kid, blob);
      const plain = kept.get(name) ?? decrypt(key, blob, context);
      if (!kept.has(name)) keep(name, plain);
      return unwrapWith(await plain, kid, wrapped.subarray(end), context);
    },
    async check() {
      const { blob } = await wrappingKey();
      await decrypt(first, blob, 'the check at the start').catch((error: unknown) => {
        throw error instanceof KmsUnavailable ? error : new KmsUnavailable(current, error);
      });
    },
  };
}

const nameOf = (error: unknown): string => (error instanceof Error ? error.name : String(error));

/** What is used of the requests of the SDK. */
interface HttpAsk {
  readonly protocol: string;
  readonly hostname: string;
  readonly port?: number;
  readonly path: string;
  readonly method: string;
  readonly headers: Record<string, string>;
  readonly body?: string | Uint8Array;
}

/** A client that asks through `fetch`. The SDK is loaded here: a server without KMS never does. */
async function connect(region: string, options: AwsKmsOptions): Promise<KMSClient> {
  const { KMSClient } = await import('@aws-sdk/client-kms');
  const { fetch, endpoint, credentials } = options;
  return new KMSClient({
    region,
    maxAttempts: 2,
    ...(endpoint ? { endpoint } : {}),
    ...(credentials ? { credentials } : {}),
    requestHandler: {
      async handle(request: HttpAsk, { abortSignal }: { readonly abortSignal?: AbortSignal } = {}) {
        const { protocol, hostname, port, path, method, headers, body } = request;
        const answer = await fetch(`${protocol}//${hostname}${port ? `:${port}` : ''}${path}`, {
          method,
          headers,
          body: body ?? null,
          signal: abortSignal,
        });
        return {
          response: {
            statusCode: answer.status,
            headers: Object.fromEntries(answer.headers),
            body: new Uint8Array(await answer.arrayBuffer()),
          },
        };
      },
    },
  });
}
