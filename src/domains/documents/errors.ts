import { DomainError, IllegalTransition } from '#kernel/errors.ts';

export type DocumentQuota = 'DOCUMENTS' | 'DOCUMENT_BYTES' | 'CONFIGURATIONS' | 'CELLS';

/** The workspace may not have more. */
export class DocumentQuotaExceeded extends DomainError {
  readonly code = 'DOCUMENT_QUOTA_EXCEEDED';
  readonly quota: DocumentQuota;
  readonly limit: bigint;
  /** What there would be. */
  readonly actual: bigint;
  constructor(quota: DocumentQuota, limit: number | bigint, actual: number | bigint) {
    const what = {
      DOCUMENTS: 'documents',
      DOCUMENT_BYTES: 'bytes of documents',
      CONFIGURATIONS: 'configurations',
      CELLS: 'cells of extracted tables',
    };
    super(`The workspace may have ${limit} ${what[quota]}.`);
    this.quota = quota;
    this.limit = BigInt(limit);
    this.actual = BigInt(actual);
  }
}

/** The workspace has a document with the same bytes. */
export class DuplicateDocument extends DomainError {
  readonly code = 'DUPLICATE_DOCUMENT';
  /** The oldest of them. */
  readonly documentId: string;
  constructor(documentId: string) {
    super('The workspace has a document with the same bytes already.');
    this.documentId = documentId;
  }
}

/** The bytes of the file have not arrived yet. */
export class UploadNotReady extends DomainError {
  readonly code = 'UPLOAD_NOT_READY';
  constructor() {
    super('The bytes of this file have not arrived yet: put them to its address first.');
  }
}

/** It is in quarantine, and can only be deleted. */
export class DocumentQuarantined extends DomainError {
  readonly code = 'DOCUMENT_QUARANTINED';
  /** Why, a code. */
  readonly problem: string;
  /** @param sentence the same for a person */
  constructor(problem: string, sentence: string) {
    super(`The document is in quarantine (${problem}): it can only be deleted. ${sentence}`);
    this.problem = problem;
  }
}

/** The configuration was changed since the caller looked. */
export class ConfigurationConflict extends DomainError {
  readonly code = 'CONFIGURATION_CONFLICT';
  readonly currentVersion: number;
  constructor(currentVersion: number) {
    super(`The configuration was changed: its version is ${currentVersion} now.`);
    this.currentVersion = currentVersion;
  }
}

/** The job does not wait for a review: none was needed, it was completed, or there is none yet. */
export class NotInReview extends IllegalTransition {
  constructor(phase: string) {
    super(phase, 'SUCCEEDED', []);
    const over = phase === 'SUCCEEDED' || phase === 'FAILED' || phase === 'CANCELED';
    this.message = `The job does not wait for a review: it ${over ? 'is over' : 'is at work'} (${phase}).`;
  }
}

/** The cell was corrected or confirmed since the caller looked. */
export class CellConflict extends DomainError {
  readonly code = 'CELL_CONFLICT';
  readonly row: number;
  readonly column: number;
  readonly currentVersion: number;
  constructor(row: number, column: number, currentVersion: number) {
    super(`The cell in row ${row}, column ${column} was changed: its version is ${currentVersion} now.`);
    this.row = row;
    this.column = column;
    this.currentVersion = currentVersion;
  }
}

/** The table has more than the format of the export holds. */
export class ExportImpossible extends DomainError {
  readonly code = 'EXPORT_IMPOSSIBLE';
}
