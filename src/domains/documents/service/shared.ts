import type { Document } from '#prisma';
import { required } from '#kernel/app.ts';
import type { Appended, Transaction } from '#kernel/db/transact.ts';
import type { Definition, Extractors } from '../../../integrations/extractors/index.ts';

/** What the operator of this server allows. */
export interface DocumentSettings {
  /** Folder of this host for copies of files that are being read; of this program alone. */
  readonly folder: string;
  /** Largest document, bytes. */
  readonly maxBytes: number;
  /** Of a workspace: documents that were uploaded, and what they have together, bytes. */
  readonly maxDocuments: number;
  readonly maxStoredBytes: number;
  /** Cells of a workspace's extracted tables, together. */
  readonly maxStoredCells: number;
  /** Extractions of a workspace that are executed at once. */
  readonly maxConcurrentExtractions: number;
  /** Of the process that reads a document, resident, MiB. */
  readonly memoryMb: number;
  /** That an extraction may take, the time in which tables are stored not counted, seconds. */
  readonly timeoutS: number;
  /** Those that there are. */
  readonly extractors: ReadonlySet<NonNullable<Definition['extractor']>>;
}
export const DocumentSettings = required<DocumentSettings>('document settings');

/** What reads documents for jobs. */
export const DocumentExtractors = required<Extractors>('extractors');

export interface Written {
  readonly id: string;
  readonly workspaceId: string;
  readonly event: Appended | null;
}

/** A cell below this wants a review, unless its configuration says otherwise. */
export const defaultMinConfidence = 0.7;

/** The row, locked until the end of the transaction: jobs begin, and its deletion, under this lock only. What refers to it does not wait. */
export async function lockDocument(tx: Transaction, id: string): Promise<Document | null> {
  await tx.db.$queryRaw`select 1 from document where id = ${id}::uuid for no key update`;
  return tx.db.document.findUnique({ where: { id } });
}
