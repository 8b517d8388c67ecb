import type { FileHandle } from 'node:fs/promises';
import { Readable } from 'node:stream';
import type { S3Client, S3ClientConfig } from '@aws-sdk/client-s3';
import { InstanceUnavailable, kindOf, saidBy } from './errors.ts';

export interface BucketOptions {
  readonly bucket: string;
  readonly region: string;
  /** In place of the region's own; the instance must reach it, too. */
  readonly endpoint?: string | undefined;
  readonly credentials?: S3ClientConfig['credentials'];
}

/** Where what must not be in the history of commands waits for the instance, or for this server. */
export interface Bucket {
  /** @throws {InstanceUnavailable} */
  put(key: string, file: FileHandle, signal?: AbortSignal): Promise<void>;
  /** @throws {InstanceUnavailable} */
  take(key: string, signal?: AbortSignal): Promise<Buffer>;
  /** Gives an address at which whoever has it can read, or write, for 15 minutes. */
  address(key: string, what: 'read' | 'write'): Promise<string>;
  remove(key: string): Promise<void>;
  close(): void;
}

const addressS = 900;
const chunkBytes = 2 ** 18;

export async function openBucket({ bucket, region, endpoint, credentials }: BucketOptions): Promise<Bucket> {
  const [sdk, { getSignedUrl }] = await Promise.all([
    import('@aws-sdk/client-s3'),
    import('@aws-sdk/s3-request-presigner'),
  ]);
  const client: S3Client = new sdk.S3Client({
    region,
    ...(endpoint ? { endpoint, forcePathStyle: true } : {}),
    ...(credentials ? { credentials } : {}),
    // A checksum would be one of the empty body in an address that is signed for another one to write.
    requestChecksumCalculation: 'WHEN_REQUIRED',
    responseChecksumValidation: 'WHEN_REQUIRED',
    requestHandler: { connectionTimeout: 5_000, requestTimeout: 60_000 },
  });
  const asked = async <T>(signal: AbortSignal | undefined, what: string, work: () => Promise<T>): Promise<T> => {
    try {
      return await work();
    } catch (error) {
      signal?.throwIfAborted();
      throw new InstanceUnavailable(`the bucket did not ${what}${kindOf(error)}`, `${bucket}: ${saidBy(error)}`, { cause: error }); // prettier-ignore
    }
  };
  return {
    put: (key, file, signal) =>
      asked(signal, 'take a request', async () => {
        const { size } = await file.stat();
        const Body = Readable.from(contentOf(file));
        await client.send(
          new sdk.PutObjectCommand({ Bucket: bucket, Key: key, Body, ContentLength: size }),
          signal ? { abortSignal: signal } : {},
        );
      }),
    take: (key, signal) =>
      asked(signal, 'give an answer', async () => {
        const { Body } = await client.send(
          new sdk.GetObjectCommand({ Bucket: bucket, Key: key }),
          signal ? { abortSignal: signal } : {},
        );
        if (!Body) throw new Error('it is empty');
        return Buffer.from(await Body.transformToByteArray());
      }),
    address(key, what) {
      const where = { Bucket: bucket, Key: key };
      const expires = { expiresIn: addressS };
      return what === 'read'
        ? getSignedUrl(client, new sdk.GetObjectCommand(where), expires)
        : getSignedUrl(client, new sdk.PutObjectCommand(where), expires);
    },
    remove: (key) =>
      asked(undefined, 'remove an object', async () => {
        await client.send(new sdk.DeleteObjectCommand({ Bucket: bucket, Key: key }));
      }),
    close: () => client.destroy(),
  };
}

async function* contentOf(file: FileHandle): AsyncGenerator<Buffer, void, undefined> {
  for (let at = 0; ;) {
    const { buffer, bytesRead } = await file.read(Buffer.alloc(chunkBytes), { position: at });
    if (bytesRead === 0) return;
    yield buffer.subarray(0, bytesRead);
    at += bytesRead;
  }
}
