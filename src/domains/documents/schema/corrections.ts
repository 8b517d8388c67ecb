import { Conflict, IllegalTransition } from '#kernel/errors.ts';
import { builder } from '#kernel/graphql/builder.ts';
import { rowId } from '#kernel/graphql/global-id.ts';
import { ErrorInterface, errorType, eventCursor, failing } from '#kernel/graphql/kit.ts';
import { CellConflict } from '../errors.ts';
import { maxConfirmed, maxCorrection } from '../model.ts';
import { can } from '../policy.ts';
import { Corrections, type CellWritten } from '../service/corrections.ts';
import { Reviews } from '../service/review.ts';
import type { Written } from '../service/shared.ts';
import { ExtractionJobRef } from './jobs.ts';
import { ExtractedTableRef } from './tables.ts';

errorType(CellConflict, {
  name: 'CellConflict',
  description: 'The cell was corrected or confirmed since you looked. Nothing was changed.',
  interfaces: [ErrorInterface],
  fields: (t) => ({
    row: t.exposeInt('row', { description: 'Row of the cell, from 0.' }),
    column: t.exposeInt('column', { description: 'Column of the cell, from 0.' }),
    currentVersion: t.exposeInt('currentVersion', { description: 'The version that it has.' }),
  }),
});

const cellSuccess = (name: string, description: string) =>
  builder.objectRef<CellWritten>(name).implement({
    description,
    fields: (t) => ({
      table: t.prismaField({
        type: ExtractedTableRef,
        description: 'The table.',
        resolve: (query, { tableId }, _, { app }) =>
          app.db.extractedTable.findUniqueOrThrow({ ...query, where: { id: tableId } }),
      }),
      eventCursor: t.string(eventCursor),
    }),
  });

const ConfirmedCell = builder.inputType('CellToConfirm', {
  description: 'A cell that is right as it is.',
  fields: (t) => ({
    row: t.int({ description: 'The row, from 0.' }),
    column: t.int({ description: 'The column, from 0.' }),
    expectedVersion: t.int({ description: 'The version that you looked at.' }),
  }),
});

builder.mutationFields((t) => ({
  correctCell: t.fieldWithInput({
    access: can.correctCell,
    type: cellSuccess('CorrectCellSuccess', 'The cell has the text, and what it had before is in its history.'),
    errors: failing(CellConflict, Conflict),
    description:
      'Gives a cell another text, read by the type of its column. Once its job waits for a review, or is over; the last cell that needed a look ends the review. A later job of the document that reads the same at the same place gets the correction again.',
    input: {
      tableId: t.input.id({ description: 'Global id of the table.' }),
      row: t.input.int({ description: 'The row, from 0.' }),
      column: t.input.int({ description: 'The column, from 0.' }),
      text: t.input.string({ description: `The text, at most ${maxCorrection} characters; empty: there is nothing.` }),
      expectedVersion: t.input.int({ description: 'The version of the cell that you looked at.' }),
      reason: t.input.string({ required: false, description: 'Why, for others; at most 1000 characters.' }),
    },
    resolve: (_, { input }, { app, actor }) =>
      app.use(Corrections).correct(actor, { ...input, tableId: rowId('ExtractedTable', input.tableId) }),
  }),
  confirmCells: t.fieldWithInput({
    access: can.confirmCells,
    type: cellSuccess('ConfirmCellsSuccess', 'The cells need no look any more.'),
    errors: failing(CellConflict, Conflict),
    description: `Says of at most ${maxConfirmed} cells of a table that they are right as they are: all of them, or none. The last cell that needed a look ends the review.`,
    input: {
      tableId: t.input.id({ description: 'Global id of the table.' }),
      cells: t.input.field({ type: [ConfirmedCell], description: 'The cells, each once.' }),
    },
    resolve: (_, { input }, { app, actor }) =>
      app.use(Corrections).confirm(actor, { ...input, tableId: rowId('ExtractedTable', input.tableId) }),
  }),
  completeReview: t.fieldWithInput({
    access: can.completeReview,
    type: builder.objectRef<Written>('CompleteReviewSuccess').implement({
      description: 'The job has succeeded.',
      fields: (f) => ({
        job: f.prismaField({
          type: ExtractionJobRef,
          description: 'The job.',
          resolve: (query, { id }, __, { app }) => app.db.run.findUniqueOrThrow({ ...query, where: { id } }),
        }),
        eventCursor: f.string(eventCursor),
      }),
    }),
    errors: failing(IllegalTransition),
    description:
      'Ends the review of a job that waits for it. Cells that nobody has looked at stay as they were read, and can still be corrected.',
    input: { jobId: t.input.id({ description: 'Global id of the job.' }) },
    resolve: (_, { input }, { app, actor }) => app.use(Reviews).complete(actor, rowId('ExtractionJob', input.jobId)),
  }),
}));
