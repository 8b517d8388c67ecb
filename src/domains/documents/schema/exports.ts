import { ExportFormat } from '#prisma';
import { Conflict, IdempotencyConflict } from '#kernel/errors.ts';
import { builder } from '#kernel/graphql/builder.ts';
import { rowId } from '#kernel/graphql/global-id.ts';
import { eventCursor, failing, guarded, idempotencyKey, visible } from '#kernel/graphql/kit.ts';
import { RunRef } from '#kernel/runs/schema.ts';
import { exportPhases, type ExportPhase } from '../model.ts';
import { can } from '../policy.ts';
import { Exports } from '../service/exports.ts';
import type { Written } from '../service/shared.ts';
import { DocumentRef } from './documents.ts';
import { ExtractionJobRef } from './jobs.ts';
import { ExtractedTableRef } from './tables.ts';

const phaseDescriptions: Record<ExportPhase, string> = {
  PENDING: 'Waits for a worker, or for another export of its workspace.',
  RUNNING: 'The file is written.',
  SUCCEEDED: 'The file is a document. Final.',
  FAILED: 'It could not be written; `statusReason` tells why. Final.',
  CANCELED: 'It was told to stop; nothing of it is left. Final.',
};
const PhaseEnum = builder.enumType('TableExportPhase', {
  description: 'Where an export stands.',
  values: Object.fromEntries(
    Object.keys(exportPhases).map((phase) => [phase, { description: phaseDescriptions[phase as ExportPhase] }]),
  ) as Record<ExportPhase, { description: string }>,
});
const FormatEnum = builder.enumType(ExportFormat, {
  name: 'ExportFormat',
  description: 'What an export makes.',
  values: {
    CSV: {
      description: 'Comma-separated values after RFC 4180, in UTF-8; of a job a ZIP archive with a file a table.',
    },
    XLSX: { description: 'A workbook with a sheet a table.' },
    JSON_LINES: { description: 'An object a row, in UTF-8; of a job a ZIP archive with a file a table.' },
  },
});
const FormulasEnum = builder.enumType('ExportFormulas', {
  description: 'What becomes of texts that a spreadsheet would take for formulas when it opens a CSV file.',
  values: {
    ESCAPE: {
      description:
        "Texts that begin with `=`, `+`, `-`, `@`, a tab or a line break, and are no numbers, get a `'` before them.",
    },
    KEEP: { description: 'They are written as they are: for programs that are no spreadsheets.' },
  } as const,
});
const ContentEnum = builder.enumType('ExportContent', {
  description: 'What is written of a cell.',
  values: {
    VALUES: { description: 'Its value in canonical form where it has one, else its text.' },
    TEXTS: { description: 'Its text as it is shown in the document, corrections included.' },
  } as const,
});

/** An export is a run: the Prisma model is Run, its own columns are reached through the relation. */
export const TableExportRef = builder.prismaNode('Run', {
  variant: 'TableExport',
  interfaces: [RunRef],
  id: { resolve: ({ id }) => id },
  description: 'Writes extracted tables as a file, which becomes a document. A part of the job that found them.',
  ...guarded('Run'),
  fields: (t) => ({
    phase: t.field({
      type: PhaseEnum,
      description: 'Where it stands, finer than `status`.',
      compiled: { column: 'phase' },
      resolve: ({ phase }) => phase as ExportPhase,
    }),
    format: t.field({
      type: FormatEnum,
      description: 'What it makes.',
      compiled: 'selected',
      select: { tableExport: { select: { format: true } } },
      resolve: ({ tableExport }) => tableExport?.format ?? 'CSV',
    }),
    table: t.field({
      type: ExtractedTableRef,
      nullable: true,
      description: 'The table that it writes; null: all of the job.',
      compiled: 'selected',
      select: (_args, _context, nested) => ({ tableExport: { select: { table: nested() } } }),
      resolve: (run) => (run as unknown as { tableExport: { table: never } | null }).tableExport?.table ?? null,
    }),
    job: t.field({
      type: ExtractionJobRef,
      description: 'The job that found what it writes.',
      compiled: 'selected',
      select: (_args, _context, nested) => ({ tableExport: { select: { job: { select: { run: nested() } } } } }),
      resolve: (run) => (run as unknown as { tableExport: { job: { run: never } } }).tableExport.job.run,
    }),
    document: t.field({
      type: DocumentRef,
      nullable: true,
      description: 'What it made; null: nothing yet, or it was deleted.',
      compiled: 'selected',
      select: (_args, _context, nested) => ({ tableExport: { select: { document: nested() } } }),
      resolve: (run) => (run as unknown as { tableExport: { document: never } | null }).tableExport?.document ?? null,
    }),
  }),
});

/** Exports that are told of a table. */
const maxTold = 50;

builder.prismaObjectField(ExtractedTableRef, 'exports', (t) =>
  t.field({
    type: [TableExportRef],
    description: `Exports of this table alone, newest first, at most ${maxTold}.`,
    select: (_args, context, nested) => ({
      exports: {
        where: { run: visible(context, 'Run') },
        orderBy: { id: 'desc' as const },
        take: maxTold,
        select: { run: nested() },
      },
    }),
    resolve: (table) => (table as unknown as { exports: { run: never }[] }).exports.map(({ run }) => run),
  }),
);

builder.prismaObjectField(DocumentRef, 'exportedBy', (t) =>
  t.field({
    type: TableExportRef,
    nullable: true,
    description: 'The export that made it; null: it was uploaded.',
    compiled: 'selected',
    select: (_args, _context, nested) => ({ exportedBy: { select: { run: nested() } } }),
    resolve: (document) => (document as unknown as { exportedBy: { run: never } | null }).exportedBy?.run ?? null,
  }),
);

const exportSuccess = (name: string) =>
  builder.objectRef<Written>(name).implement({
    description: 'The export is queued.',
    fields: (t) => ({
      export: t.prismaField({
        type: TableExportRef,
        description: 'The export.',
        resolve: (query, { id }, _, { app }) => app.db.run.findUniqueOrThrow({ ...query, where: { id } }),
      }),
      eventCursor: t.string(eventCursor),
    }),
  });
const becomes =
  'as a file, which becomes a document of the workspace. Corrections that are made meanwhile may be in it or not.';
const options = {
  format: 'What to make.',
  formulas: 'CSV only: what becomes of texts that a spreadsheet takes for formulas; default ESCAPE.',
  byteOrderMark: 'CSV only: whether a file begins with U+FEFF, which some spreadsheets want; default false.',
  content: 'What is written; default VALUES.',
};

builder.mutationFields((t) => ({
  exportTable: t.fieldWithInput({
    access: can.exportTable,
    type: exportSuccess('ExportTableSuccess'),
    errors: failing(Conflict, IdempotencyConflict),
    description: `Writes a table ${becomes}`,
    input: {
      tableId: t.input.id({ description: 'Global id of the table.' }),
      format: t.input.field({ type: FormatEnum, description: options.format }),
      formulas: t.input.field({ type: FormulasEnum, required: false, description: options.formulas }),
      byteOrderMark: t.input.boolean({ required: false, description: options.byteOrderMark }),
      content: t.input.field({ type: ContentEnum, required: false, description: options.content }),
      idempotencyKey: t.input.string(idempotencyKey),
    },
    resolve: (_, { input }, { app, actor }) =>
      app.use(Exports).table(actor, { ...input, tableId: rowId('ExtractedTable', input.tableId) }),
  }),
  exportTables: t.fieldWithInput({
    access: can.exportTables,
    type: exportSuccess('ExportTablesSuccess'),
    errors: failing(Conflict, IdempotencyConflict),
    description: `Writes all tables of a job ${becomes}`,
    input: {
      jobId: t.input.id({ description: 'Global id of the job.' }),
      format: t.input.field({ type: FormatEnum, description: options.format }),
      formulas: t.input.field({ type: FormulasEnum, required: false, description: options.formulas }),
      byteOrderMark: t.input.boolean({ required: false, description: options.byteOrderMark }),
      content: t.input.field({ type: ContentEnum, required: false, description: options.content }),
      idempotencyKey: t.input.string(idempotencyKey),
    },
    resolve: (_, { input }, { app, actor }) =>
      app.use(Exports).tables(actor, { ...input, jobId: rowId('ExtractionJob', input.jobId) }),
  }),
}));
