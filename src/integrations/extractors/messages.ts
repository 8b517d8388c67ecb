import {
  DocumentEncrypted,
  DocumentMalformed,
  DocumentBeyondLimits,
  DocumentUnsupported,
  ExtractorUnavailable,
  type ExtractionError,
  type Limits,
} from './errors.ts';
import type { Definition, Detected } from './extractor.ts';
import type { Packed } from './packing.ts';
import type { TaskFormat } from './raw.ts';

/** What the child is asked for, one after the other. The file is open as `fileDescriptor`. */
export type Task =
  | { readonly kind: 'DETECT'; readonly limits: Limits }
  | {
      readonly kind: 'EXTRACT';
      readonly format: TaskFormat;
      readonly definition: Definition;
      readonly limits: Limits;
      readonly sampleRows: number | null;
    };

export const fileDescriptor = 3;
/** Where `start.mjs` reads its code. */
export const codeDescriptor = 5;

/** What the child says. It says no more than `window` batches that have not been asked for. */
export type Told =
  | { readonly kind: 'BATCH'; readonly items: readonly Packed[] }
  | { readonly kind: 'DETECTED'; readonly detected: Detected }
  | { readonly kind: 'FAILED'; readonly error: Failure }
  /** What it was asked for is done, and it waits. `peakBytes`: of its resident memory; `cpuMs`: its processor time, so far. */
  | { readonly kind: 'DONE'; readonly peakBytes: number; readonly cpuMs: number };

/** What the child is told: one batch was taken. */
export interface Asked {
  readonly kind: 'TAKEN';
}

export const window = 2;

/** An error that goes from one process to another. */
export interface Failure {
  readonly code:
    | 'EXTRACTOR_UNAVAILABLE'
    | 'DOCUMENT_ENCRYPTED'
    | 'DOCUMENT_MALFORMED'
    | 'DOCUMENT_BEYOND_LIMITS'
    | 'DOCUMENT_UNSUPPORTED';
  readonly message: string;
  readonly limit?: keyof Limits;
  readonly most?: number;
}

/** Null: it is no error of the document. */
export function failureOf(error: unknown): Failure | null {
  if (error instanceof DocumentBeyondLimits) {
    const { code, message, limit, most } = error;
    return { code, message, limit, most };
  }
  if (
    error instanceof DocumentEncrypted ||
    error instanceof DocumentMalformed ||
    error instanceof DocumentUnsupported ||
    error instanceof ExtractorUnavailable
  )
    return { code: error.code, message: error.message };
  return null;
}

export function errorOf(failure: Failure): ExtractionError {
  switch (failure.code) {
    case 'DOCUMENT_ENCRYPTED':
      return new DocumentEncrypted();
    case 'DOCUMENT_BEYOND_LIMITS':
      return new DocumentBeyondLimits(failure.limit ?? 'maxBytes', failure.most ?? 0);
    case 'EXTRACTOR_UNAVAILABLE':
      return new ExtractorUnavailable(failure.message);
    case 'DOCUMENT_UNSUPPORTED':
      return new DocumentUnsupported(failure.message);
    case 'DOCUMENT_MALFORMED':
      return new DocumentMalformed(failure.message);
    default:
      return failure.code satisfies never;
  }
}
