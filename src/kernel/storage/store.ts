import type { Readable } from 'node:stream';
import { DomainError } from '../errors.ts';

/** What was stored: length in bytes, and SHA-256 in 64 lower-case hexadecimal digits. */
export interface StoredBlob {
  readonly sizeBytes: number;
  readonly sha256: string;
}

export interface PutOptions {
  /** Longest that is taken. */
  readonly maxBytes: number;
  /** What the bytes must turn out to be; otherwise nothing is kept. */
  readonly expect?: StoredBlob | undefined;
  /** Ends the upload and destroys the source; nothing is kept. */
  readonly signal?: AbortSignal | undefined;
}

/** First and last byte, both included, from 0. */
export interface ByteRange {
  readonly start?: number | undefined;
  readonly end?: number | undefined;
}

/** A blob as a list tells of it. */
export interface ListedBlob {
  readonly key: string;
  readonly sizeBytes: number;
  readonly storedAt: Date;
}

/**
 * Where files are. A key is a lower-case UUID; a blob never changes once it is there. Bytes are streamed, so memory does
 * not grow with them.
 */
export interface BlobStore {
  /**
   * Stores the bytes of `source`. The blob appears whole, or not at all. On a failure the source is left as it is,
   * except that `signal` destroys it.
   *
   * Of several that store under one key at once, one succeeds. A store that cannot promise this says so in docs/storage.md:
   * there the blob is one of theirs, whole.
   *
   * @throws Conflict when the key is taken
   * @throws UploadTooLarge, UploadMismatch, StorageUnavailable
   * @throws TypeError when the key is not a lower-case UUID
   */
  put(key: string, source: Readable, options: PutOptions): Promise<StoredBlob>;
  /**
   * Opens a blob. `sizeBytes` is that of the whole blob, whatever the range. The stream must be read or destroyed.
   *
   * @throws NotFound, RangeError when the range is not within the blob, TypeError and StorageUnavailable as above
   */
  get(key: string, range?: ByteRange): Promise<{ readonly stream: Readable; readonly sizeBytes: number }>;
  /** Null when there is no such blob. @throws TypeError as above */
  stat(key: string): Promise<{ readonly sizeBytes: number; readonly storedAt: Date } | null>;
  /** Removes a blob; that there is none is no error. @throws TypeError as above */
  remove(key: string): Promise<void>;
  /** Every blob that was stored before, in no order; what is stored or removed meanwhile may be missing. */
  list(before: Date): AsyncIterable<ListedBlob>;
  /** Removes what uploads left that were begun before and never ended. @returns how many */
  sweep(before: Date): Promise<number>;
  /**
   * Where a client gets a blob without this server, good for so many seconds; as an attachment with this name. A store
   * that has no address of its own has no such function.
   */
  address?(key: string, fileName: string, expiresInS: number): Promise<string>;
}

/** The store did not do what it was asked for. Trying again later may help. */
export class StorageUnavailable extends DomainError {
  readonly code = 'STORAGE_UNAVAILABLE';
  constructor(cause: unknown) {
    super('The storage of files does not answer as it should. Try again later.');
    this.cause = cause;
  }
}

/** The upload has more bytes than it may. */
export class UploadTooLarge extends DomainError {
  readonly code = 'UPLOAD_TOO_LARGE';
  readonly maxBytes: number;
  constructor(maxBytes: number) {
    super(`The upload may have at most ${maxBytes} bytes.`);
    this.maxBytes = maxBytes;
  }
}

/** The bytes are not the ones that were declared. */
export class UploadMismatch extends DomainError {
  readonly code = 'UPLOAD_MISMATCH';
  readonly expected: StoredBlob;
  readonly actual: StoredBlob;
  constructor(expected: StoredBlob, actual: StoredBlob) {
    super(
      `The upload was declared as ${expected.sizeBytes} bytes with SHA-256 ${expected.sha256}, ` +
        `but has ${actual.sizeBytes} bytes with SHA-256 ${actual.sha256}.`,
    );
    this.expected = expected;
    this.actual = actual;
  }
}

/** @throws TypeError when it is none */
export function mustBeKey(text: string): string {
  if (!isBlobKey(text)) throw new TypeError(`Not a blob key: ${JSON.stringify(text.slice(0, 80))}`);
  return text;
}

/** Whether a text is a key: a UUID in lower case, so that no key is a path, and no two are one on any file system. */
export const isBlobKey = (text: string): boolean =>
  /^[\da-f]{8}-[\da-f]{4}-[\da-f]{4}-[\da-f]{4}-[\da-f]{12}$/.test(text);
