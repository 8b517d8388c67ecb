import type { IncomingMessage, ServerResponse } from 'node:http';
import type { Readable } from 'node:stream';
import { pipeline } from 'node:stream/promises';
import { Conflict, DomainError, NotFound } from '../errors.ts';
import type { Logger } from '../log.ts';
import {
  SignatureRefused,
  type DownloadGrant,
  type PartGrant,
  type StorageUrls,
  type UploadGrant,
} from './signed-urls.ts';
import {
  isBlobKey,
  StorageUnavailable,
  UploadMismatch,
  UploadTooLarge,
  type BlobStore,
  type StoredBlob,
} from './store.ts';

/** How long the store's own address of a file is good, seconds: a client follows at once. */
const redirectTtlS = 60;

/** A refused body up to this long is read and thrown away, so that the client gets to read the answer. */
const drainBytes = 1_048_576;

export interface StorageHandlerOptions {
  readonly store: BlobStore;
  readonly urls: StorageUrls;
  readonly maxUploadBytes: number;
  /**
   * Records that the bytes are there. If it throws, the bytes are removed and the client, which gets a 500, may upload
   * again: so it must be safe to run twice for one key.
   */
  readonly onUploaded: (key: string, result: StoredBlob) => Promise<void>;
  /** Stores one part of a file, in place of what it was sent as before. */
  readonly onPart: (key: string, part: number, sizeBytes: number, source: Readable) => Promise<StoredBlob>;
  readonly log: Logger;
}

/** Answers a request to `/storage/…`; false, and nothing done, for every other path. */
export type StorageHandler = (req: IncomingMessage, res: ServerResponse, url: URL) => Promise<boolean>;

/**
 * Upload and download by signed URL: PUT, GET and HEAD on `/storage/<key>?…`.
 *
 * | status | code | when |
 * |---|---|---|
 * | 201 | | uploaded, or the part is; body `{sizeBytes, sha256}` |
 * | 200, 206 | | the file, or the range of it that was asked for |
 * | 307 | | where the store itself gives the file; the address is good for a minute |
 * | 400 | LENGTH_MISMATCH | Content-Length is not the declared size |
 * | 403 | SIGNATURE_REFUSED | signature wrong, expired, or for another request |
 * | 404 | NOT_FOUND | no such file |
 * | 405 | METHOD_NOT_ALLOWED | |
 * | 409 | CONFLICT | there is a file with this key already, or the upload is over |
 * | 411 | LENGTH_REQUIRED | no Content-Length |
 * | 413 | UPLOAD_TOO_LARGE | |
 * | 415 | CONTENT_TYPE_MISMATCH | Content-Type is not the declared one, or there is a Content-Encoding |
 * | 416 | RANGE_NOT_SATISFIABLE | |
 * | 422 | UPLOAD_MISMATCH | the bytes are not the declared ones; nothing was kept |
 * | 500 | INTERNAL | anything else; logged |
 * | 503 | STORAGE_UNAVAILABLE | the store does not answer as it should; logged |
 *
 * A refusal's body is `{code, message}`. What was uploaded is never shown as a page of this origin: it comes as an
 * attachment, in a sandbox, without sniffing.
 *
 * @see https://www.rfc-editor.org/rfc/rfc9110
 */
export function createStorageHandler(options: StorageHandlerOptions): StorageHandler {
  return async (req, res, url) => {
    if (!url.pathname.startsWith('/storage/')) return false;
    res.setHeader('X-Content-Type-Options', 'nosniff');
    res.setHeader('Content-Security-Policy', 'sandbox');
    res.setHeader('Cache-Control', 'private, no-store');
    try {
      await route(options, req, res, url);
    } catch (error) {
      answerError(options.log, req, res, error);
    }
    return true;
  };
}

async function route(
  options: StorageHandlerOptions,
  req: IncomingMessage,
  res: ServerResponse,
  url: URL,
): Promise<void> {
  const key = url.pathname.slice('/storage/'.length);
  if (!isBlobKey(key)) throw new NotFound('file', key.slice(0, 80));
  if (req.method === 'PUT') {
    const grant = options.urls.verify('PUT', key, url.searchParams);
    if (grant.method !== 'PUT') return;
    if ('part' in grant) await uploadPart(options, req, res, grant);
    else await upload(options, req, res, grant);
  } else if (req.method === 'GET' || req.method === 'HEAD') {
    const grant = options.urls.verify('GET', key, url.searchParams);
    if (grant.method === 'GET') await download(options, req, res, grant);
  } else {
    res.setHeader('Allow', 'GET, HEAD, PUT');
    refuse(req, res, 405, 'METHOD_NOT_ALLOWED', 'Use GET, HEAD or PUT.');
  }
}

async function upload(
  { store, maxUploadBytes, onUploaded, log }: StorageHandlerOptions,
  req: IncomingMessage,
  res: ServerResponse,
  grant: UploadGrant,
): Promise<void> {
  const { key, sizeBytes, sha256 } = grant;
  if (!isLength(req, res, sizeBytes, maxUploadBytes)) return;
  const encoding = req.headers['content-encoding'] ?? 'identity';
  const type = req.headers['content-type'];
  if (encoding !== 'identity' || (type !== undefined && type.toLowerCase() !== grant.contentType.toLowerCase())) {
    const message = `Send Content-Type: ${grant.contentType}, and no Content-Encoding.`;
    return refuse(req, res, 415, 'CONTENT_TYPE_MISMATCH', message);
  }
  // Before the body: the client need not send it in vain.
  if (await store.stat(key)) throw new Conflict('There is a file with this key already.');

  const stored = await store.put(key, req, { maxBytes: maxUploadBytes, expect: { sizeBytes, sha256 } });
  try {
    await onUploaded(key, stored);
  } catch (error) {
    // Bytes that nothing knows of would make the key unusable.
    await store.remove(key);
    throw error;
  }
  log.debug({ blob: key, sizeBytes }, 'file uploaded');
  send(res, 201, stored);
}

/** Whether the announced length is the declared one; if not, the request was answered. */
function isLength(req: IncomingMessage, res: ServerResponse, sizeBytes: number, maxBytes: number): boolean {
  const length = contentLength(req);
  if (length === undefined) {
    refuse(req, res, 411, 'LENGTH_REQUIRED', 'Send Content-Length.');
    return false;
  }
  if (length > maxBytes || sizeBytes > maxBytes) throw new UploadTooLarge(maxBytes);
  if (length === sizeBytes) return true;
  const message = `The upload was declared as ${sizeBytes} bytes, but Content-Length is ${length}.`;
  refuse(req, res, 400, 'LENGTH_MISMATCH', message);
  return false;
}

async function uploadPart(
  { maxUploadBytes, onPart, log }: StorageHandlerOptions,
  req: IncomingMessage,
  res: ServerResponse,
  { key, part, sizeBytes }: PartGrant,
): Promise<void> {
  if (!isLength(req, res, sizeBytes, maxUploadBytes)) return;
  if ((req.headers['content-encoding'] ?? 'identity') !== 'identity')
    return refuse(req, res, 415, 'CONTENT_TYPE_MISMATCH', 'Send no Content-Encoding.');
  const stored = await onPart(key, part, sizeBytes, req);
  log.debug({ artifact: key, part, sizeBytes }, 'part uploaded');
  send(res, 201, stored);
}

async function download(
  { store }: StorageHandlerOptions,
  req: IncomingMessage,
  res: ServerResponse,
  { key, fileName, contentType }: DownloadGrant,
): Promise<void> {
  const found = await store.stat(key);
  if (!found) throw new NotFound('file', key);
  const { sizeBytes } = found;
  if (store.address && req.method === 'GET') {
    // Ranges are the store's own matter: a client repeats the header there.
    res.writeHead(307, { Location: await store.address(key, fileName ?? key, redirectTtlS), 'Content-Length': 0 });
    res.end();
    return;
  }
  // RFC 9110, 14.2: only GET has ranges. There is no validator that If-Range could name, so with it all is sent.
  const wanted = req.method === 'GET' && req.headers['if-range'] === undefined ? req.headers.range : undefined;
  const range = parseRange(wanted, sizeBytes);
  if (range === 'unsatisfiable') {
    res.setHeader('Content-Range', `bytes */${sizeBytes}`);
    return refuse(req, res, 416, 'RANGE_NOT_SATISFIABLE', `The file has ${sizeBytes} bytes.`);
  }
  // Opened before the head is written, so that a failure can still be answered.
  const opened = req.method === 'GET' ? await store.get(key, range) : undefined;
  res.setHeader('Accept-Ranges', 'bytes');
  res.setHeader('Content-Type', contentType ?? 'application/octet-stream');
  res.setHeader('Content-Disposition', attachment(fileName ?? key));
  res.setHeader('Content-Length', range ? range.end - range.start + 1 : sizeBytes);
  if (range) res.setHeader('Content-Range', `bytes ${range.start}-${range.end}/${sizeBytes}`);
  res.writeHead(range ? 206 : 200);
  if (opened) await pipeline(opened.stream, res);
  else res.end();
}

function answerError(log: Logger, req: IncomingMessage, res: ServerResponse, error: unknown): void {
  const code = error instanceof Error && 'code' in error ? error.code : undefined;
  const clientLeft = code === 'ECONNRESET' || code === 'ERR_STREAM_PREMATURE_CLOSE';
  const unanswerable = res.headersSent || (req.destroyed && !req.complete);
  if (unanswerable) {
    if (clientLeft) log.debug('transfer ended by the client');
    else log.error({ err: error }, 'transfer failed');
    // The length was announced: only a broken connection tells the client that it does not have all.
    res.destroy();
    return;
  }
  if (error instanceof StorageUnavailable) log.error({ err: error }, 'the storage of files failed');
  if (error instanceof DomainError) return refuse(req, res, statusOf(error), error.code, error.message);
  log.error({ err: error }, 'storage request failed');
  refuse(req, res, 500, 'INTERNAL', 'Something went wrong on our side. Try again.');
}

function statusOf(error: DomainError): number {
  if (error instanceof SignatureRefused) return 403;
  if (error instanceof NotFound) return 404;
  if (error instanceof Conflict) return 409;
  if (error instanceof UploadTooLarge) return 413;
  if (error instanceof UploadMismatch) return 422;
  if (error instanceof StorageUnavailable) return 503;
  return 400;
}

function refuse(req: IncomingMessage, res: ServerResponse, status: number, code: string, message: string): void {
  // Node reads the rest of a body before it reuses the connection. A long one is not worth it.
  if (!req.complete && (contentLength(req) ?? Infinity) > drainBytes) res.setHeader('Connection', 'close');
  send(res, status, { code, message });
}

function send(res: ServerResponse, status: number, body: object): void {
  const text = JSON.stringify(body);
  res.writeHead(status, {
    'Content-Type': 'application/json; charset=utf-8',
    'Content-Length': Buffer.byteLength(text),
  });
  res.end(text);
}

/** Undefined when there is none: chunked, or no body at all. */
function contentLength(req: IncomingMessage): number | undefined {
  const text = req.headers['content-length'];
  return text !== undefined && /^\d{1,15}$/.test(text) ? Number(text) : undefined;
}

/**
 * One range of bytes, both ends included. Undefined, which means all: when there is none, more than one, or no valid one.
 * @see https://www.rfc-editor.org/rfc/rfc9110#section-14.1.2
 */
function parseRange(
  header: string | undefined,
  size: number,
): { start: number; end: number } | 'unsatisfiable' | undefined {
  const [, from = '', to = ''] = /^bytes=(\d{0,15})-(\d{0,15})$/.exec(header ?? '') ?? [];
  if (from === '' && to === '') return undefined;
  if (from === '') {
    const last = Number(to);
    return last === 0 || size === 0 ? 'unsatisfiable' : { start: Math.max(0, size - last), end: size - 1 };
  }
  const start = Number(from);
  if (to !== '' && Number(to) < start) return undefined;
  return start >= size ? 'unsatisfiable' : { start, end: to === '' ? size - 1 : Math.min(Number(to), size - 1) };
}

/**
 * A Content-Disposition that makes the client save the file, with an ASCII name for old clients and the real one.
 * @see https://www.rfc-editor.org/rfc/rfc6266
 */
export function attachment(fileName: string): string {
  const name =
    fileName
      .toWellFormed()
      // Control characters, and what would be a path or a drive; also marks that reverse the reading direction.
      .replaceAll(/[\p{Cc}\p{Bidi_Control}\p{Zl}\p{Zp}]/gu, '')
      .replaceAll(/[/\\:]/g, '_')
      .replace(/^[. ]+/, '')
      .slice(0, 200)
      .toWellFormed() || 'file';
  const ascii = name.replaceAll(/[^ -~]/g, '_').replaceAll(/["%;]/g, '_');
  const encoded = encodeURIComponent(name).replaceAll(
    /['()*]/g,
    (c) => `%${c.charCodeAt(0).toString(16).toUpperCase()}`,
  );
  return `attachment; filename="${ascii}"; filename*=UTF-8''${encoded}`;
}
