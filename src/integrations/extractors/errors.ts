import { DomainError } from '#kernel/errors.ts';

// Apart from the rest so that a child process need not load what it does not use.

export interface Limits {
  /** Of the file. */
  readonly maxBytes: number;
  /** What is packed in a file, unpacked, all parts together. */
  readonly maxUnpackedBytes: number;
  /** Pages of a PDF, sheets of a workbook. */
  readonly maxPages: number;
  readonly maxTables: number;
  /** Of all tables together. */
  readonly maxCells: number;
  readonly maxColumns: number;
  readonly maxCellChars: number;
  /** Of one row: it goes to another process, and is stored, as a whole. */
  readonly maxRowChars: number;
  /** Of all tables together: a text that a file has once may stand in a million of their cells. */
  readonly maxChars: number;
  /** While somebody waits for it: the time that the consumer takes does not count. */
  readonly timeoutMs: number;
  /** Of the child process, resident. */
  readonly memoryMb: number;
}

export const defaultLimits: Limits = {
  maxBytes: 104_857_600,
  maxUnpackedBytes: 2_147_483_648,
  maxPages: 2_000,
  maxTables: 5_000,
  maxCells: 5_000_000,
  maxColumns: 2_000,
  maxCellChars: 100_000,
  maxRowChars: 8_388_608,
  maxChars: 1_073_741_824,
  timeoutMs: 600_000,
  memoryMb: 768,
};

export const extractionErrorCodes = [
  'DOCUMENT_ENCRYPTED',
  'DOCUMENT_MALFORMED',
  'DOCUMENT_BEYOND_LIMITS',
  'DOCUMENT_UNSUPPORTED',
  'EXTRACTION_TIMED_OUT',
  'EXTRACTION_OUT_OF_MEMORY',
  'EXTRACTION_CRASHED',
  'EXTRACTOR_UNAVAILABLE',
] as const;
export type ExtractionErrorCode = (typeof extractionErrorCodes)[number];

/** Why there are no tables, or no more. Those with DOCUMENT_ are the file's: the same file fails again. */
export abstract class ExtractionError extends DomainError {
  abstract override readonly code: ExtractionErrorCode;
}

/** What each says of a document, a sentence for a person. */
export const extractionErrorSentences: Readonly<Record<ExtractionErrorCode, string>> = {
  DOCUMENT_ENCRYPTED: 'The document is protected by a password.',
  DOCUMENT_MALFORMED: 'The document is empty or damaged.',
  DOCUMENT_BEYOND_LIMITS: 'The document, or what is packed in it, is larger than is read.',
  DOCUMENT_UNSUPPORTED: 'Documents of this kind are not read.',
  EXTRACTION_TIMED_OUT: 'It took too long to read the document.',
  EXTRACTION_OUT_OF_MEMORY: 'It takes too much memory to read the document.',
  EXTRACTION_CRASHED: 'What read the document ended unexpectedly.',
  EXTRACTOR_UNAVAILABLE: 'What was to read the document is not there.',
};

/** It wants a password. */
export class DocumentEncrypted extends ExtractionError {
  readonly code = 'DOCUMENT_ENCRYPTED';
  constructor() {
    super('The document is protected by a password.');
  }
}

/** It is not what its format wants, at a place that matters. */
export class DocumentMalformed extends ExtractionError {
  readonly code = 'DOCUMENT_MALFORMED';
  constructor(why = 'The document is damaged.') {
    super(why);
  }
}

/** It has more of something than is read. */
export class DocumentBeyondLimits extends ExtractionError {
  readonly code = 'DOCUMENT_BEYOND_LIMITS';
  readonly limit: keyof Limits;
  readonly most: number;
  constructor(limit: keyof Limits, most: number) {
    super(`The document is larger than is read: ${limit} is ${most}.`);
    this.limit = limit;
    this.most = most;
  }
}

/** It is of a kind that is not read here. */
export class DocumentUnsupported extends ExtractionError {
  readonly code = 'DOCUMENT_UNSUPPORTED';
  constructor(why = 'Documents of this kind are not read.') {
    super(why);
  }
}

/** It took longer than it may. */
export class ExtractionTimedOut extends ExtractionError {
  readonly code = 'EXTRACTION_TIMED_OUT';
  constructor(timeoutMs: number) {
    super(`The extraction took longer than ${timeoutMs / 1000} s.`);
  }
}

/** It needs more memory than it may have. */
export class ExtractionOutOfMemory extends ExtractionError {
  readonly code = 'EXTRACTION_OUT_OF_MEMORY';
  constructor(memoryMb: number) {
    super(`The extraction needs more than ${memoryMb} MiB of memory.`);
  }
}

/** The process that read the document ended without a word. */
export class ExtractionCrashed extends ExtractionError {
  readonly code = 'EXTRACTION_CRASHED';
  /** @param options the cause is for the log: it may tell of this host */
  constructor(options?: ErrorOptions) {
    super('The extraction ended unexpectedly.', options);
  }
}

/** The extractor that the definition names is not configured, or gives no usable answer. */
export class ExtractorUnavailable extends ExtractionError {
  readonly code = 'EXTRACTOR_UNAVAILABLE';
}
