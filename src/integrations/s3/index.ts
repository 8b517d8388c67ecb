import { randomUUID } from 'node:crypto';
import { addAbortListener } from 'node:events';
import { PassThrough, type Readable } from 'node:stream';
import {
  AbortMultipartUploadCommand,
  CompleteMultipartUploadCommand,
  CreateMultipartUploadCommand,
  DeleteObjectCommand,
  GetObjectCommand,
  HeadObjectCommand,
  ListMultipartUploadsCommand,
  ListObjectsV2Command,
  PutObjectCommand,
  S3Client,
  S3ServiceException,
  UploadPartCommand,
  type CompletedPart,
  type S3ClientConfig,
} from '@aws-sdk/client-s3';
import { getSignedUrl } from '@aws-sdk/s3-request-presigner';
import { Conflict, NotFound } from '#kernel/errors.ts';
import type { Logger } from '#kernel/log.ts';
import { attachment } from '#kernel/storage/http.ts';
import { intake, readerReports } from '#kernel/storage/intake.ts';
import {
  isBlobKey,
  mustBeKey,
  StorageUnavailable,
  type BlobStore,
  type ByteRange,
  type ListedBlob,
  type PutOptions,
  type StoredBlob,
} from '#kernel/storage/store.ts';

export interface S3Options {
  readonly bucket: string;
  readonly region: string;
  /** Of a server that is not AWS. */
  readonly endpoint?: string | undefined;
  /** Before every key; `a/b` and `a/b/` are the same. */
  readonly prefix?: string | undefined;
  /** `endpoint/bucket/key` in place of `bucket.endpoint/key`. */
  readonly pathStyle?: boolean;
  /** Default: those that the SDK finds (environment, files, web identity, container, instance). */
  readonly credentials?: S3ClientConfig['credentials'];
  /** Whether clients may be sent to the bucket for downloads: then they must be able to reach the endpoint. */
  readonly redirects?: boolean;
  readonly log: Logger;
  /** Longest that one request may take, milliseconds. */
  readonly timeoutMs?: number;
  /** Least size of a part, bytes; S3 wants 5 MiB at least. */
  readonly partBytes?: number;
}

export interface S3BlobStore extends BlobStore {
  /** Lists the bucket. @throws {StorageUnavailable} whose message names what is wrong */
  check(): Promise<void>;
  /** Closes its connections. */
  close(): void;
}

/** The bucket cannot be used. */
export class BucketUnusable extends Error {
  override readonly name = 'BucketUnusable';
  constructor(bucket: string, cause: unknown) {
    super(`The S3 bucket ${bucket} cannot be used: ${reasonOf(cause)}`);
  }
}

/** S3 takes 10,000 parts at most. @see https://docs.aws.amazon.com/AmazonS3/latest/userguide/qfacts.html */
const maxParts = 10_000;
const defaultPartBytes = 8 * 1024 * 1024;

/**
 * Blobs as objects of a bucket: `<prefix>/<key>`. What is small is one PutObject, what is larger a multipart upload of
 * which one part at a time is in memory; in both cases the object appears only after size and SHA-256 were verified
 * here, as S3 servers differ in what they check. `If-None-Match: *` keeps a second writer away where the server knows it.
 *
 * @see https://docs.aws.amazon.com/AmazonS3/latest/API/API_Operations_Amazon_Simple_Storage_Service.html
 */
export function createS3BlobStore(options: S3Options): S3BlobStore {
  const { bucket: Bucket, region, endpoint, pathStyle = false, credentials, log } = options;
  const { timeoutMs = 60_000, partBytes: leastPartBytes = defaultPartBytes } = options;
  const prefix = options.prefix ? `${options.prefix.replaceAll(/^\/+|\/+$/g, '')}/` : '';
  const client = new S3Client({
    region,
    forcePathStyle: pathStyle,
    maxAttempts: 3,
    // Only AWS itself knows the newer checksums; the bytes are verified here in any case.
    requestChecksumCalculation: 'WHEN_REQUIRED',
    responseChecksumValidation: 'WHEN_REQUIRED',
    requestHandler: { connectionTimeout: 5000, requestTimeout: timeoutMs, throwOnRequestTimeout: true },
    ...(endpoint ? { endpoint } : {}),
    ...(credentials ? { credentials } : {}),
  });
  /** Whether the server knows `If-None-Match` on what stores. */
  let conditional = true;

  const at = (key: string) => ({ Bucket, Key: prefix + mustBeKey(key) });

  /** @throws {StorageUnavailable}, the reason of the abort, or what `as` makes of the failure */
  const asked = async <T>(asking: Promise<T>, signal?: AbortSignal): Promise<T> => {
    try {
      return await asking;
    } catch (error) {
      signal?.throwIfAborted();
      throw new StorageUnavailable(error);
    }
  };

  const head = async (key: string) => {
    try {
      return await client.send(new HeadObjectCommand(at(key)));
    } catch (error) {
      if (statusOf(error) === 404) return null;
      throw new StorageUnavailable(error);
    }
  };

  /**
   * Makes the object appear. An answer that was lost may have followed a success, and a repeat of the SDK then meets its
   * own object: the token tells.
   */
  const appear = async (
    key: string,
    token: string,
    store: (IfNoneMatch: '*' | undefined) => Promise<unknown>,
  ): Promise<void> => {
    try {
      await store(conditional ? '*' : undefined);
    } catch (error) {
      if (conditional && isUnknownThere(error)) {
        conditional = false;
        log.warn({ bucket: Bucket }, 'the S3 server does not know If-None-Match: a second writer is not kept away');
        return appear(key, token, store);
      }
      const there = await head(key);
      if (there?.Metadata?.['put'] === token) return;
      // 412: it is there. 409: another one is being stored at this moment.
      if (there || [409, 412].includes(statusOf(error) ?? 0)) throw taken();
      throw error;
    }
  };

  async function store(key: string, source: Readable, put: PutOptions): Promise<StoredBlob> {
    const { maxBytes, expect, signal } = put;
    const cancel = signal ? { abortSignal: signal } : {};
    const limit = Math.min(maxBytes, expect?.sizeBytes ?? maxBytes);
    const partBytes = Math.max(leastPartBytes, Math.ceil(limit / maxParts));
    const token = randomUUID();
    const about = { ...at(key), ContentType: 'application/octet-stream', Metadata: { put: token } };
    const { chunks, stored } = intake(source, put);
    const parts: CompletedPart[] = [];
    let UploadId: string | undefined;
    let held: Buffer[] = [];
    let heldBytes = 0;

    const sendPart = async (Body: Buffer): Promise<void> => {
      // Not canceled: an upload whose id was not heard could not be aborted.
      UploadId ??= (await client.send(new CreateMultipartUploadCommand(about))).UploadId;
      signal?.throwIfAborted();
      const PartNumber = parts.length + 1;
      const { ETag } = await client.send(new UploadPartCommand({ ...at(key), UploadId, PartNumber, Body }), cancel);
      parts.push({ PartNumber, ETag });
    };

    try {
      for await (const chunk of chunks) {
        held.push(chunk);
        heldBytes += chunk.length;
        // More than a part: what is exactly one needs no multipart upload. All parts but the last have one size.
        while (heldBytes > partBytes) {
          const all = Buffer.concat(held);
          await asked(sendPart(all.subarray(0, partBytes)), signal);
          held = [all.subarray(partBytes)];
          heldBytes -= partBytes;
        }
      }
      const result = stored();
      const last = Buffer.concat(held);
      if (UploadId) {
        await asked(sendPart(last), signal);
        const MultipartUpload = { Parts: parts };
        await known(
          appear(key, token, (IfNoneMatch) =>
            client.send(
              new CompleteMultipartUploadCommand({ ...at(key), UploadId, MultipartUpload, IfNoneMatch }),
              cancel,
            ),
          ),
          signal,
        );
        UploadId = undefined;
      } else {
        await known(
          appear(key, token, (IfNoneMatch) =>
            client.send(new PutObjectCommand({ ...about, Body: last, IfNoneMatch }), cancel),
          ),
          signal,
        );
      }
      return result;
    } finally {
      if (UploadId) {
        // Not the caller's signal, which may be what ended the upload.
        await client.send(new AbortMultipartUploadCommand({ ...at(key), UploadId })).catch((error: unknown) => {
          if (statusOf(error) !== 404)
            log.warn({ blob: key, reason: reasonOf(error) }, 'an upload to S3 was left: a later clean-up removes it');
        });
      }
    }
  }

  return {
    async put(key, source, put) {
      mustBeKey(key);
      // From the start, since the source may fail, or the caller give up, before the first byte is read.
      source.on('error', readerReports);
      const abort = put.signal && addAbortListener(put.signal, () => source.destroy());
      try {
        if (await head(key)) throw taken();
        return await store(key, source, put);
      } finally {
        abort?.[Symbol.dispose]();
        source.off('error', readerReports);
      }
    },

    async get(key, range = {}) {
      const where = at(key);
      const Range = rangeOf(range);
      let answer;
      try {
        answer = await client.send(new GetObjectCommand({ ...where, Range }));
      } catch (error) {
        if (statusOf(error) === 404) throw new NotFound('file', key);
        if (statusOf(error) === 416) throw outside(range);
        throw new StorageUnavailable(error);
      }
      const body = answer.Body as Readable | undefined;
      const total = /\/(\d+)$/.exec(answer.ContentRange ?? '')?.[1];
      const sizeBytes = Range ? Number(total) : answer.ContentLength;
      if (!body || sizeBytes === undefined || !Number.isSafeInteger(sizeBytes)) {
        body?.destroy();
        throw new StorageUnavailable(new Error('the answer has no body or no length'));
      }
      if ((range.end ?? 0) >= sizeBytes && Range) {
        body.destroy();
        throw outside(range);
      }
      const stream = new PassThrough();
      // A connection that breaks is no client that left.
      body.once('error', (error) => stream.destroy(new StorageUnavailable(error)));
      stream.once('close', () => body.destroy());
      body.pipe(stream);
      return { stream, sizeBytes };
    },

    async stat(key) {
      mustBeKey(key);
      const found = await head(key);
      return found ? { sizeBytes: found.ContentLength ?? 0, storedAt: found.LastModified ?? new Date(0) } : null;
    },

    async remove(key) {
      const where = at(key);
      await asked(
        client.send(new DeleteObjectCommand(where)).catch((error: unknown) => {
          if (statusOf(error) !== 404) throw error;
        }),
      );
    },

    async *list(before): AsyncGenerator<ListedBlob> {
      let ContinuationToken: string | undefined;
      do {
        const page = await asked(client.send(new ListObjectsV2Command({ Bucket, Prefix: prefix, ContinuationToken })));
        for (const { Key = '', Size = 0, LastModified } of page.Contents ?? []) {
          const key = Key.slice(prefix.length);
          if (isBlobKey(key) && LastModified && LastModified < before)
            yield { key, sizeBytes: Size, storedAt: LastModified };
        }
        ContinuationToken = page.IsTruncated ? page.NextContinuationToken : undefined;
      } while (ContinuationToken !== undefined);
    },

    async sweep(before) {
      let removed = 0;
      let markers = {};
      for (;;) {
        const page = await client
          .send(new ListMultipartUploadsCommand({ Bucket, Prefix: prefix, ...markers }))
          .catch((error: unknown) => {
            if (!isUnknownThere(error)) throw new StorageUnavailable(error);
            log.warn({ bucket: Bucket }, 'the S3 server does not list uploads: what broken ones left stays there');
            return undefined;
          });
        for (const { Key = '', UploadId, Initiated } of page?.Uploads ?? []) {
          if (!isBlobKey(Key.slice(prefix.length)) || !Initiated || Initiated >= before) continue;
          await asked(
            client.send(new AbortMultipartUploadCommand({ Bucket, Key, UploadId })).catch((error: unknown) => {
              if (statusOf(error) !== 404) throw error;
            }),
          );
          removed++;
        }
        if (!page?.IsTruncated) return removed;
        markers = { KeyMarker: page.NextKeyMarker, UploadIdMarker: page.NextUploadIdMarker };
      }
    },

    ...(options.redirects && {
      async address(key: string, fileName: string, expiresInS: number): Promise<string> {
        const command = new GetObjectCommand({
          ...at(key),
          ResponseContentDisposition: attachment(fileName),
          // S3 cannot be told to send nosniff: so the type is one that no browser shows or runs.
          ResponseContentType: 'application/octet-stream',
          ResponseCacheControl: 'private, no-store',
        });
        // The SDK has learned from answers by how much this clock is wrong.
        const signingDate = new Date(Date.now() + client.config.systemClockOffset);
        return asked(getSignedUrl(client, command, { expiresIn: expiresInS, signingDate }));
      },
    }),

    async check() {
      await client.send(new ListObjectsV2Command({ Bucket, Prefix: prefix, MaxKeys: 1 })).catch((error: unknown) => {
        throw new BucketUnusable(Bucket, error);
      });
    },

    close: () => client.destroy(),
  };
}

/** What `appear` says is either one of ours or a failure. */
async function known(appearing: Promise<void>, signal: AbortSignal | undefined): Promise<void> {
  try {
    await appearing;
  } catch (error) {
    signal?.throwIfAborted();
    throw error instanceof Conflict || error instanceof StorageUnavailable ? error : new StorageUnavailable(error);
  }
}

const taken = () => new Conflict('There is a file with this key already.');

const outside = ({ start, end }: ByteRange) =>
  new RangeError(`Bytes ${start ?? ''}-${end ?? ''} are not within the blob`);

/** Undefined: all. S3 would take a range that is none for all of it. */
function rangeOf(range: ByteRange): string | undefined {
  const { start, end } = range;
  if (start === undefined && end === undefined) return undefined;
  const first = start ?? 0;
  if (!(first >= 0 && first <= (end ?? first))) throw outside(range);
  return `bytes=${first}-${end ?? ''}`;
}

const statusOf = (error: unknown): number | undefined =>
  error instanceof S3ServiceException ? error.$metadata.httpStatusCode : undefined;

const isUnknownThere = (error: unknown): boolean =>
  error instanceof S3ServiceException && (error.name === 'NotImplemented' || statusOf(error) === 501);

/** For a log or a person: the service's own words, without the parts of the request that it repeats. */
const reasonOf = (error: unknown): string =>
  error instanceof Error ? [error.name, error.message].filter(Boolean).join(': ').slice(0, 300) : String(error);
