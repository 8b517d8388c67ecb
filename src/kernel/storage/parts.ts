import { DomainError } from '../errors.ts';
import { maxParts } from './signed-urls.ts';

const mebibyte = 1_048_576;

/** Bounds of the size of a part, bytes. */
export const minPartBytes = 65_536;
export const maxPartBytes = 1024 * mebibyte;

/** The size of parts that is proposed for a file: 8 MiB, or more where it would be too many. */
export const proposedPartBytes = (sizeBytes: number): number =>
  Math.max(8, Math.ceil(sizeBytes / maxParts / mebibyte)) * mebibyte;

/** How many parts a file has: all but the last one are of the same size. */
export const partCount = (sizeBytes: number, partBytes: number): number => Math.ceil(sizeBytes / partBytes);

/** Size of a part, from 1, bytes. */
export const sizeOfPart = (sizeBytes: number, partBytes: number, part: number): number =>
  Math.min(partBytes, sizeBytes - (part - 1) * partBytes);

export type UploadQuota = 'OPEN_UPLOADS' | 'PENDING_BYTES';

/** The workspace has announced as much as it may without sending it. */
export class UploadQuotaExceeded extends DomainError {
  readonly code = 'UPLOAD_QUOTA_EXCEEDED';
  readonly quota: UploadQuota;
  readonly limit: number;
  constructor(quota: UploadQuota, limit: number) {
    const what = quota === 'OPEN_UPLOADS' ? `${limit} uploads` : `uploads of ${limit} bytes in all`;
    super(`The workspace may have ${what} that have not arrived. Finish or abort some.`);
    this.quota = quota;
    this.limit = limit;
  }
}

/** Parts are missing. */
export class UploadIncomplete extends DomainError {
  readonly code = 'UPLOAD_INCOMPLETE';
  /** The first hundred of them. */
  readonly missing: readonly number[];
  constructor(missing: readonly number[]) {
    super(`${missing.length === 1 ? 'A part has' : `${missing.length} parts have`} not arrived.`);
    this.missing = missing.slice(0, 100);
  }
}
