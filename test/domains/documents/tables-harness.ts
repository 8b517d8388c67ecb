import { randomUUID } from 'node:crypto';
import type { App } from '#kernel/app.ts';
import { system } from '#kernel/auth/actor.ts';
import { newId } from '#kernel/ids.ts';
import { Runs, type Hold } from '#kernel/runs/runs.ts';
import type { Run } from '#prisma';
import { Tables } from '../../../src/domains/documents/service/tables.ts';
import type { Cell, Column, Extracted } from '../../../src/integrations/extractors/index.ts';
import type { Tenant } from '../../support/world.ts';

/** An extraction that a test executes itself: what a worker would do is done by hand. */
export interface Extraction {
  readonly app: App;
  readonly run: Run;
  readonly hold: Hold;
  readonly documentId: string;
}

export async function documentOf(app: App, of: Pick<Tenant, 'id'>, name = 'figures.pdf'): Promise<string> {
  const id = newId();
  const common = { workspaceId: of.id, contentType: 'application/pdf', sizeBytes: 1n, sha256: 'a'.repeat(64) };
  await app.db.artifact.create({ data: { id, ...common, name, status: 'READY' } });
  await app.db.document.create({ data: { id, ...common, name, artifactId: id, format: 'PDF' } });
  return id;
}

/** A job of a document that is RUNNING, held by the test. */
export async function extractionOf(app: App, of: Pick<Tenant, 'id'>, document?: string): Promise<Extraction> {
  const documentId = document ?? (await documentOf(app, of));
  const hold = { runId: newId(), attempt: 1, workerId: randomUUID() };
  const soon = new Date(Date.now() + 3_600_000);
  const run = await app.db.run.create({
    data: {
      id: hold.runId,
      workspaceId: of.id,
      kind: 'ExtractionJob',
      status: 'RUNNING',
      phase: 'RUNNING',
      attempt: 1,
      workerId: hold.workerId,
      leaseUntil: soon,
      deadlineAt: soon,
      input: { documentId, configurationId: null, configurationVersion: null },
      steps: { create: [{ name: 'extract', position: 0, status: 'SUCCEEDED' }] },
      extractionJob: { create: { documentId } },
    },
  });
  return { app, run, hold, documentId };
}

/** A table as an extractor gives it. */
export interface Given {
  readonly name?: string;
  readonly columns: readonly Column[];
  readonly rows: readonly (readonly Cell[])[];
}

/** A cell; what is not said follows from its text. */
export const cell = (text: string, more: Partial<Cell> = {}, at = 'A1'): Cell => ({
  text,
  value: text === '' ? null : text,
  type: text === '' ? 'EMPTY' : 'TEXT',
  confidence: 1,
  citation: { kind: 'SHEET', sheet: 'Figures', ref: at },
  ...more,
});

function* eventsOf(tables: readonly Given[], batch: number): Generator<Extracted> {
  for (const [index, { name = `Table ${index + 1}`, columns, rows }] of tables.entries()) {
    yield { type: 'table', index, name, sheet: 'Figures', columns, headerRows: 1 };
    for (let from = 0; from < rows.length; from += batch)
      yield { type: 'rows', table: index, from, rows: rows.slice(from, from + batch) };
    yield { type: 'tableEnd', table: index, rows: rows.length, columns };
  }
}

/** Writes tables as a job's step does. @returns their ids in order */
export async function write(extraction: Extraction, tables: readonly Given[], minConfidence = 0.7): Promise<string[]> {
  const { app, run } = extraction;
  const writer = await app.use(Tables).writer(extraction, { minConfidence });
  for (const event of eventsOf(tables, 100)) {
    if (event.type === 'table') await writer.table(event);
    else if (event.type === 'rows') await writer.rows(event);
    else if (event.type === 'tableEnd') await writer.tableEnd(event);
  }
  await app.transact(system, async (tx) => {
    const { tables: count, rows, cells, review } = await app.use(Tables).finish(tx, run.id);
    await tx.db.extractionJob.update({
      where: { id: run.id },
      data: { tableCount: count, rowCount: rows, cellCount: cells, reviewCount: review },
    });
  });
  const rows = await app.db.extractedTable.findMany({ where: { jobId: run.id }, orderBy: { position: 'asc' } });
  return rows.map(({ id }) => id);
}

/** Ends a job as its execution does: it waits when there is something to look at. */
export async function conclude({ app, hold }: Extraction): Promise<void> {
  const runs = app.use(Runs);
  await app.transact(system, (tx) => runs.moveTo(tx, hold, 'PERSISTING'));
  const { reviewCount } = await app.db.extractionJob.findUniqueOrThrow({ where: { id: hold.runId } });
  await app.transact(system, (tx) =>
    reviewCount > 0n ? runs.wait(tx, hold, { phase: 'NEEDS_REVIEW' }) : runs.finish(tx, hold, { phase: 'SUCCEEDED' }),
  );
}

/** A job with these tables that has ended, or waits for its review. */
export async function extracted(
  app: App,
  of: Pick<Tenant, 'id'>,
  tables: readonly Given[],
  document?: string,
): Promise<Extraction & { readonly tables: readonly string[] }> {
  const extraction = await extractionOf(app, of, document);
  const ids = await write(extraction, tables);
  await conclude(extraction);
  return { ...extraction, tables: ids };
}
