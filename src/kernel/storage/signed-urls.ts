import { createHmac } from 'node:crypto';
import { timingSafeEqualText } from '../crypto.ts';
import { DomainError } from '../errors.ts';
import { isBlobKey } from './store.ts';

/** Longest life of a signed URL, in seconds. */
export const maxExpiryS = 3600;

/** Leave to fetch one file. Good for HEAD too. */
export interface DownloadGrant {
  readonly method: 'GET';
  readonly key: string;
  /** Under which the client should save it. */
  readonly fileName?: string | undefined;
  /** As it was declared at the upload. */
  readonly contentType?: string | undefined;
}

/** Leave to store exactly these bytes under one key. */
export interface UploadGrant {
  readonly method: 'PUT';
  readonly key: string;
  readonly sizeBytes: number;
  /** 64 lower-case hexadecimal digits. */
  readonly sha256: string;
  readonly contentType: string;
}

/** Leave to store one part of a file: what it holds is verified with the whole. */
export interface PartGrant {
  readonly method: 'PUT';
  readonly key: string;
  /** 1 to 10,000. */
  readonly part: number;
  readonly sizeBytes: number;
}

export type Grant = DownloadGrant | UploadGrant | PartGrant;

/** Most parts of a file. */
export const maxParts = 10_000;

/** A URL that stands for a grant until it expires: whoever has it may use it, so it goes to one client only. */
export interface SignedUrl {
  readonly url: string;
  readonly method: 'GET' | 'PUT';
  readonly expiresAt: Date;
}

export interface StorageUrls {
  /**
   * @param expiresInS 1 to 3600 seconds
   * @throws RangeError, TypeError when the grant is not one that can be signed
   */
  sign(grant: Grant, expiresInS: number): SignedUrl;
  /**
   * What the URL allows. HEAD is verified as GET.
   *
   * @param query its query, not decoded by anything but URL
   * @throws SignatureRefused
   */
  verify(method: 'GET' | 'PUT', key: string, query: URLSearchParams): Grant & { readonly expiresAt: Date };
}

/** The signature does not fit the request, or its time is over. */
export class SignatureRefused extends DomainError {
  readonly code = 'SIGNATURE_REFUSED';
  readonly reason: 'invalid' | 'expired';
  constructor(reason: 'invalid' | 'expired') {
    super(reason === 'expired' ? 'The URL has expired. Ask for a new one.' : 'The URL is not signed for this request.');
    this.reason = reason;
  }
}

/** `type/subtype` of tokens, and at most one parameter such as `charset=utf-8` (RFC 9110, 8.3.1). */
const mediaType = /^[\w!#$&^.+-]{1,60}\/[\w!#$&^.+-]{1,60}(?:; ?[\w-]{1,20}=[\w.-]{1,40})?$/;

/** Whether a text is a media type that can be declared for a file: at most 120 characters. */
export const isContentType = (text: string): boolean => text.length <= 120 && mediaType.test(text);

const parameters = ['expires', 'size', 'sha256', 'type', 'name', 'signature', 'part'] as const;
const signed = ['expires', 'size', 'sha256', 'type', 'name'] as const;

/**
 * Signs and verifies `<baseUrl>/storage/<key>?expires=…&signature=…`. The signature is an HMAC-SHA256 over method, key,
 * expiry, and for an upload size, SHA-256 and content type, for a part number and size, for a download file name and
 * content type.
 *
 * @param options.secret at least 32 bytes, the same in every process
 * @param options.baseUrl public URL of the server without a trailing slash; a function where it is known only later
 * @param options.now the clock; for tests
 */
export function createStorageUrls(options: {
  readonly secret: string;
  readonly baseUrl: string | (() => string);
  readonly now?: () => Date;
}): StorageUrls {
  const { secret, baseUrl, now = () => new Date() } = options;
  if (Buffer.byteLength(secret) < 32) throw new RangeError('The storage secret must have at least 32 bytes');

  /** A JSON array, because no choice of values makes two different lists the same text. */
  const signatureOf = (method: string, key: string, query: URLSearchParams): string =>
    createHmac('sha256', secret)
      .update(
        JSON.stringify([
          'switchyard-storage-1',
          method,
          key,
          ...signed.map((name) => query.get(name)),
          // A list that is longer: what was signed without it stays good.
          ...(query.has('part') ? [query.get('part')] : []),
        ]),
      )
      .digest('base64url');

  return {
    sign(grant, expiresInS) {
      check(grant);
      if (!(expiresInS >= 1 && expiresInS <= maxExpiryS))
        throw new RangeError(`A URL lives 1 to ${maxExpiryS} seconds`);
      const expires = Math.floor(now().getTime() / 1000 + expiresInS);
      const query = new URLSearchParams({ expires: String(expires) });
      if (grant.method === 'PUT') {
        query.set('size', String(grant.sizeBytes));
        if ('part' in grant) query.set('part', String(grant.part));
        else query.set('sha256', grant.sha256);
      } else if (grant.fileName !== undefined) {
        // A lone surrogate would come back as another character, and the signature would not fit.
        query.set('name', grant.fileName.toWellFormed());
      }
      if ('contentType' in grant && grant.contentType !== undefined) query.set('type', grant.contentType);
      query.set('signature', signatureOf(grant.method, grant.key, query));
      const base = typeof baseUrl === 'string' ? baseUrl : baseUrl();
      return {
        url: `${base}/storage/${grant.key}?${query.toString()}`,
        method: grant.method,
        expiresAt: new Date(expires * 1000),
      };
    },

    verify(method, key, query) {
      const names = [...query.keys()];
      const known = names.every((name) => (parameters as readonly string[]).includes(name));
      // A name that comes twice could be read one way here and another way elsewhere.
      if (!known || new Set(names).size !== names.length) throw new SignatureRefused('invalid');
      if (!timingSafeEqualText(query.get('signature') ?? '', signatureOf(method, key, query))) {
        throw new SignatureRefused('invalid');
      }
      // From here on the values are ours; what follows guards against a key that also signs elsewhere.
      const expires = Number(query.get('expires'));
      const leftS = expires - now().getTime() / 1000;
      if (!Number.isSafeInteger(expires) || leftS > maxExpiryS + 5) throw new SignatureRefused('invalid');
      if (leftS <= 0) throw new SignatureRefused('expired');
      const contentType = query.get('type') ?? undefined;
      const part = query.get('part');
      const grant: Grant =
        method === 'PUT' && part !== null
          ? { method, key, part: Number(part), sizeBytes: Number(query.get('size')) }
          : method === 'PUT'
            ? {
                method,
                key,
                sizeBytes: Number(query.get('size')),
                sha256: query.get('sha256') ?? '',
                contentType: contentType ?? '',
              }
            : { method, key, fileName: query.get('name') ?? undefined, contentType };
      return { ...grant, expiresAt: new Date(expires * 1000) };
    },
  };
}

function check(grant: Grant): void {
  if (!isBlobKey(grant.key)) throw new TypeError('A key is a lower-case UUID');
  if ('contentType' in grant && grant.contentType !== undefined && !isContentType(grant.contentType))
    throw new TypeError('Not a content type');
  if (grant.method === 'GET') return;
  if (!Number.isSafeInteger(grant.sizeBytes) || grant.sizeBytes < 0) throw new TypeError('A size is a number of bytes');
  if ('part' in grant) {
    if (!Number.isInteger(grant.part) || grant.part < 1 || grant.part > maxParts)
      throw new TypeError(`A part is from 1 to ${maxParts}`);
    return;
  }
  if (!/^[\da-f]{64}$/.test(grant.sha256)) throw new TypeError('A SHA-256 is 64 lower-case hexadecimal digits');
}
