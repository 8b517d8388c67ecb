import { z } from 'zod';
import type { DocumentFormat } from '#prisma';
import type { Phase } from '#kernel/runs/kinds.ts';

/**
 * An extraction's state machine. While it waits for a worker it is PENDING; one that a person must look at holds no
 * worker. The database refuses any other phase.
 */
export const extractionPhases = {
  PENDING: { status: 'QUEUED', next: ['RUNNING', 'CANCELED', 'FAILED'] },
  RUNNING: { status: 'RUNNING', next: ['PERSISTING', 'CANCELED', 'FAILED'] },
  PERSISTING: { status: 'RUNNING', next: ['NEEDS_REVIEW', 'SUCCEEDED', 'CANCELED', 'FAILED'] },
  NEEDS_REVIEW: { status: 'WAITING', next: ['SUCCEEDED', 'CANCELED', 'FAILED'] },
  SUCCEEDED: { status: 'SUCCEEDED', next: [] },
  FAILED: { status: 'FAILED', next: [] },
  CANCELED: { status: 'CANCELED', next: [] },
} as const satisfies Record<string, Phase>;
export type ExtractionPhase = keyof typeof extractionPhases;

/** An export's state machine. */
export const exportPhases = {
  PENDING: { status: 'QUEUED', next: ['RUNNING', 'CANCELED', 'FAILED'] },
  RUNNING: { status: 'RUNNING', next: ['SUCCEEDED', 'CANCELED', 'FAILED'] },
  SUCCEEDED: { status: 'SUCCEEDED', next: [] },
  FAILED: { status: 'FAILED', next: [] },
  CANCELED: { status: 'CANCELED', next: [] },
} as const satisfies Record<string, Phase>;
export type ExportPhase = keyof typeof exportPhases;

/** What an extraction is asked to do. A type, because an interface is no JSON. */
export type ExtractionInput = {
  readonly documentId: string;
  /** Null: the defaults. */
  readonly configurationId: string | null;
  readonly configurationVersion: number | null;
};

/** Text without what would garble a log line or a file name. */
const line = (most: number) =>
  z
    .string()
    .trim()
    .min(1, 'must not be empty')
    .max(most)
    .refine((text) => !/[\p{Cc}\p{Cs}]/u.test(text), 'must have no control characters');

export const NewDocument = z.object({
  artifactId: z.string(),
  name: line(255).nullish(),
  allowDuplicate: z.boolean().nullish(),
});

export const NewConfiguration = z.object({ workspaceId: z.string(), name: line(120), definition: z.unknown() });
export const ChangedConfiguration = z.object({
  id: z.string(),
  expectedVersion: z.int(),
  name: line(120).nullish(),
  definition: z.unknown(),
});

export const NewExtraction = z.object({
  documentId: z.string(),
  configurationId: z.string().nullish(),
  configurationVersion: z.int().min(1).nullish(),
  idempotencyKey: z.string().nullish(),
});

/** Most rows of each table that a preview gives. */
export const maxPreviewRows = 100;
export const NewPreview = z
  .object({
    documentId: z.string(),
    configurationId: z.string().nullish(),
    definition: z.unknown(),
    rows: z.int().min(1).max(maxPreviewRows).default(20),
  })
  .refine(({ configurationId, definition }) => configurationId == null || definition == null, {
    path: ['definition'],
    message: 'must not be given with configurationId',
  });

export const NewRetention = z.object({ workspaceId: z.string(), days: z.int().min(1).max(36_500).nullable() });

export const NewModelUse = z.object({ workspaceId: z.string(), allowed: z.boolean() });

/** Formats that tables are extracted from; a file of any other is a document only as what an export made. */
export const extractable = ['CSV', 'TSV', 'XLSX', 'XLS', 'PDF', 'DOCX', 'HTML'] as const satisfies DocumentFormat[];
export type ExtractableFormat = (typeof extractable)[number];

export const isExtractable = (format: DocumentFormat | null): format is ExtractableFormat =>
  (extractable as readonly (DocumentFormat | null)[]).includes(format);

/** What a name ends in, and what such a file is. */
const byExtension: Readonly<Record<string, DocumentFormat>> = {
  csv: 'CSV',
  tsv: 'TSV',
  tab: 'TSV',
  xlsx: 'XLSX',
  xlsm: 'XLSX',
  xls: 'XLS',
  pdf: 'PDF',
  docx: 'DOCX',
  html: 'HTML',
  htm: 'HTML',
};
const byType: Readonly<Record<string, DocumentFormat>> = {
  'text/csv': 'CSV',
  'text/tab-separated-values': 'TSV',
  'application/vnd.openxmlformats-officedocument.spreadsheetml.sheet': 'XLSX',
  'application/vnd.ms-excel': 'XLS',
  'application/pdf': 'PDF',
  'application/vnd.openxmlformats-officedocument.wordprocessingml.document': 'DOCX',
  'text/html': 'HTML',
};
/** Nobody can tell these apart but by what is in them. */
const delimited: readonly (DocumentFormat | null)[] = ['CSV', 'TSV'];

/**
 * Whether a file is something else than its name or its announced media type says. Both are only claims; what says
 * nothing of a format (`.bin`, `application/octet-stream`) claims nothing.
 */
export function isMislabeled(
  claims: { readonly name: string; readonly contentType: string },
  is: DocumentFormat | null,
) {
  const extension = /\.([^.]{1,10})$/.exec(claims.name)?.[1]?.toLowerCase() ?? '';
  const named = byExtension[extension];
  const type = /^[^;\s]*/.exec(claims.contentType.toLowerCase())?.[0] ?? '';
  // Browsers on Windows announce a CSV file as one of Excel.
  const announced = type === 'application/vnd.ms-excel' && delimited.includes(named ?? null) ? named : byType[type];
  return [named, announced].some(
    (claimed) => claimed !== undefined && claimed !== is && !(delimited.includes(claimed) && delimited.includes(is)),
  );
}

/** Longest text that a person gives a cell, characters: what a cell of a spreadsheet holds. */
export const maxCorrection = 32_767;
/** Cells that are confirmed at once. */
export const maxConfirmed = 100;
const index = z.int().min(0).max(2_147_483_647);
const cellVersion = z.int().min(0).max(32_767);

export const NewCorrection = z.object({
  tableId: z.string(),
  row: index,
  column: index,
  text: z.string().max(maxCorrection),
  expectedVersion: cellVersion,
  reason: z.string().trim().max(1000).nullish(),
});

export const Confirmation = z.object({
  tableId: z.string(),
  cells: z
    .array(z.object({ row: index, column: index, expectedVersion: cellVersion }))
    .min(1)
    .max(maxConfirmed)
    .refine(
      (cells) => new Set(cells.map(({ row, column }) => `${row} ${column}`)).size === cells.length,
      'A cell is there twice.',
    ),
});

/** How an export writes. A type, because an interface is no JSON. */
export type ExportOptions = {
  /** What a spreadsheet may take for a formula; CSV only. */
  readonly formulas: 'ESCAPE' | 'KEEP';
  /** Whether the file begins with U+FEFF; CSV only. */
  readonly byteOrderMark: boolean;
  /** Canonical values where there are some, or texts as they are shown. */
  readonly content: 'VALUES' | 'TEXTS';
};

export type ExportInput = {
  /** Null: all tables of the job. */
  readonly tableId: string | null;
  readonly jobId: string;
  readonly format: 'CSV' | 'XLSX' | 'JSON_LINES';
  readonly options: ExportOptions;
};

const exportOptions = {
  format: z.enum(['CSV', 'XLSX', 'JSON_LINES']),
  formulas: z.enum(['ESCAPE', 'KEEP']).nullish(),
  byteOrderMark: z.boolean().nullish(),
  content: z.enum(['VALUES', 'TEXTS']).nullish(),
  idempotencyKey: z.string().nullish(),
};
export const NewTableExport = z.object({ tableId: z.string(), ...exportOptions });
export const NewTablesExport = z.object({ jobId: z.string(), ...exportOptions });
