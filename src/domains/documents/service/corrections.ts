import type { ExtractedCell, Run } from '#prisma';
import { service } from '#kernel/app.ts';
import type { Actor } from '#kernel/auth/actor.ts';
import { authorizeRow, type Verb } from '#kernel/auth/policy.ts';
import type { Appended, Transaction } from '#kernel/db/transact.ts';
import { Conflict, NotFound, ValidationError } from '#kernel/errors.ts';
import { isId, newId } from '#kernel/ids.ts';
import { parse } from '#kernel/input.ts';
import { isTerminal } from '#kernel/runs/model.ts';
import { Runs } from '#kernel/runs/runs.ts';
import { definitionSchema, type Definition } from '../../../integrations/extractors/index.ts';
import { CellConflict } from '../errors.ts';
import { cellCorrected, cellsConfirmed } from '../events.ts';
import { Confirmation, NewCorrection } from '../model.ts';
import { can } from '../policy.ts';
import { Reviews } from './review.ts';
import { readText, type Reading } from './values.ts';

export interface CellWritten {
  readonly tableId: string;
  readonly workspaceId: string;
  readonly event: Appended;
}

interface Place {
  readonly row: number;
  readonly column: number;
  readonly expectedVersion: number;
}

/** More of them are not kept of one cell. */
const maxVersions = 1000;

/** What people say of cells: the writer of cell_correction, and of cells from then on. */
export const Corrections = service('corrections', (app) => {
  /**
   * Does something to cells of a table. Of one job, one after the other: so the counts are right, and it is seen who
   * looked at the last cell. That ends the review.
   */
  const change = async (
    actor: Actor,
    verb: Verb,
    tableId: string,
    places: readonly Place[],
    fn: (tx: Transaction, found: Found, cells: readonly ExtractedCell[]) => Promise<Appended>,
  ): Promise<CellWritten> => {
    if (!isId(tableId)) throw new NotFound('ExtractedTable', tableId);
    return app.transact(actor, async (tx) => {
      const table = await tx.db.extractedTable.findUnique({
        where: { id: tableId },
        include: { document: { select: { removalAskedAt: true } } },
      });
      authorizeRow(actor, verb, table, 'ExtractedTable', tableId);
      const run = await app.use(Runs).lock(tx, table.jobId);
      if (!run || table.document.removalAskedAt) throw new Conflict('The document is being deleted.');
      if (run.status !== 'WAITING' && !isTerminal(run.status))
        throw new Conflict('The table is still being extracted.');
      const cells = await cellsAt(tx, tableId, places);
      const event = await fn(tx, { ...table, run }, cells);
      const looked = cells.filter(({ needsReview }) => needsReview).length;
      if (looked > 0) {
        await tx.db.extractedTable.update({ where: { id: tableId }, data: { reviewCount: { decrement: looked } } });
        // Of a job that did not come to its end nothing was counted.
        await tx.db.extractionJob.updateMany({
          where: { id: table.jobId, reviewCount: { gte: looked } },
          data: { reviewCount: { decrement: looked } },
        });
        const { reviewCount } = await tx.db.extractionJob.findUniqueOrThrow({ where: { id: table.jobId } });
        if (reviewCount === 0n && run.phase === 'NEEDS_REVIEW' && run.status === 'WAITING')
          await app.use(Reviews).end(tx, run, reviewCount);
      }
      return { tableId, workspaceId: table.workspaceId, event };
    });
  };

  return {
    /**
     * Gives a cell another text, read by the type of its column, and certain from then on. What was there before is kept.
     * @throws {ValidationError} also for a text that the column's type does not have
     * @throws {NotFound} {Forbidden} {CellConflict}
     * @throws {Conflict} while the table is being extracted, or its document deleted
     */
    async correct(actor: Actor, raw: unknown): Promise<CellWritten> {
      const { tableId, text, reason = null, ...place } = parse(NewCorrection, raw);
      return change(actor, can.correctCell, tableId, [place], async (tx, found, [cell]) => {
        if (!cell) throw new NotFound('ExtractedCell', `${place.row} ${place.column}`);
        const column = await tx.db.extractedColumn.findUniqueOrThrow({
          where: { tableId_position: { tableId, position: cell.column } },
        });
        const reading = readText(text, column.type, await definitionOf(tx, found.jobId));
        if (!reading)
          throw new ValidationError([{ path: 'text', message: `is no value of the column's type ${column.type}` }]);
        await say(tx, found, [{ cell, text, reading }], reason);
        const { row, column: at } = place;
        const data = { jobId: found.jobId, documentId: found.documentId, row, column: at, version: cell.version + 1 };
        return tx.append({
          type: cellCorrected,
          workspaceId: found.workspaceId,
          subjectId: tableId,
          run: found.run,
          data,
        });
      });
    },

    /**
     * Says of cells that they are right as they are.
     * @throws {ValidationError} {NotFound} {Forbidden} {CellConflict} {Conflict} as `correct`; then none is confirmed
     */
    async confirm(actor: Actor, raw: unknown): Promise<CellWritten> {
      const { tableId, cells: places } = parse(Confirmation, raw);
      return change(actor, can.confirmCells, tableId, places, async (tx, found, cells) => {
        const same = cells.map((cell) => {
          const { type, value, number } = cell;
          return { cell, text: cell.text, reading: { type, value, number: number === null ? null : number.toFixed() } };
        });
        await say(tx, found, same, null);
        const data = { jobId: found.jobId, documentId: found.documentId, cells: cells.length };
        return tx.append({
          type: cellsConfirmed,
          workspaceId: found.workspaceId,
          subjectId: tableId,
          run: found.run,
          data,
        });
      });
    },
  };
});

interface Found {
  readonly id: string;
  readonly workspaceId: string;
  readonly jobId: string;
  readonly documentId: string;
  readonly run: Run;
}

/** The cells, locked. @throws {NotFound} {CellConflict} */
async function cellsAt(tx: Transaction, tableId: string, places: readonly Place[]): Promise<ExtractedCell[]> {
  const at = { rows: places.map(({ row }) => row), columns: places.map(({ column }) => Math.min(column, 32_767)) };
  await tx.db.$queryRaw`
    select 1 from extracted_cell c join unnest(${at.rows}::int[], ${at.columns}::smallint[]) as p(row, "column")
      on c.table_id = ${tableId}::uuid and c.row = p.row and c."column" = p."column"
    order by c."column", c.row for update of c`;
  const found = await tx.db.extractedCell.findMany({
    where: { OR: places.map(({ row, column }) => ({ tableId, row, column: Math.min(column, 32_767) })) },
  });
  return places.map(({ row, column, expectedVersion }) => {
    const cell = found.find((one) => one.row === row && one.column === column);
    if (!cell) throw new NotFound('ExtractedCell', `row ${row}, column ${column}`);
    if (cell.version !== expectedVersion) throw new CellConflict(row, column, cell.version);
    if (cell.version >= maxVersions) throw new Conflict(`A cell is changed at most ${maxVersions} times.`);
    return cell;
  });
}

/** Writes what somebody says of cells that are locked, with their history: a few statements, however many cells. */
async function say(
  tx: Transaction,
  { id: tableId, documentId }: Found,
  said: readonly { readonly cell: ExtractedCell; readonly text: string; readonly reading: Reading }[],
  reason: string | null,
): Promise<void> {
  const columns = await tx.db.extractedColumn.findMany({
    where: { tableId, position: { in: said.map(({ cell }) => cell.column) } },
  });
  // What was read in the document is what the first correction found.
  const first = await tx.db.cellCorrection.findMany({
    where: { version: 1, OR: said.map(({ cell: { row, column } }) => ({ tableId, row, column })) },
    select: { row: true, column: true, extractedText: true },
  });
  await tx.db.cellCorrection.createMany({
    data: said.map(({ cell, text, reading }) => ({
      id: newId(),
      tableId,
      documentId,
      column: cell.column,
      row: cell.row,
      version: cell.version + 1,
      fromText: cell.text,
      toText: text,
      extractedText:
        first.find((one) => one.row === cell.row && one.column === cell.column)?.extractedText ?? cell.text,
      citation: cell.citation ?? {},
      columnType: columns.find(({ position }) => position === cell.column)?.type ?? 'TEXT',
      type: reading.type,
      value: reading.value,
      number: reading.number,
      reason,
      actorId: tx.actor.userId,
    })),
  });
  const texts = said.map(({ text }) => text);
  await tx.db.$executeRaw`
    update extracted_cell c set text = s.text, type = s.type::cell_type, value = nullif(s.value, ''),
      number = nullif(s.number, '')::numeric, confidence = 1, note = null, needs_review = false, version = c.version + 1
    from unnest(${said.map(({ cell }) => cell.row)}::int[], ${said.map(({ cell }) => cell.column)}::smallint[],
      ${texts}::text[], ${said.map(({ reading }) => reading.type)}::text[],
      ${said.map(({ reading }) => reading.value ?? '')}::text[], ${said.map(({ reading }) => reading.number ?? '')}::text[])
      as s(row, "column", text, type, value, number)
    where c.table_id = ${tableId}::uuid and c.row = s.row and c."column" = s."column"`;
}

/** By what a job has read its document. */
async function definitionOf(tx: Transaction, jobId: string): Promise<Definition> {
  const job = await tx.db.extractionJob.findUniqueOrThrow({ where: { id: jobId } });
  const { configurationId, configurationVersion: version } = job;
  if (configurationId === null || version === null) return definitionSchema.parse({});
  const found = await tx.db.extractionConfigurationVersion.findUnique({
    where: { configurationId_version: { configurationId, version } },
  });
  return definitionSchema.parse(found?.definition ?? {});
}
