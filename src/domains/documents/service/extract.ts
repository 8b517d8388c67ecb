import type { RunContext, StepContext } from '#kernel/runs/context.ts';
import { DomainError, NotFound } from '#kernel/errors.ts';
import {
  DocumentEncrypted,
  DocumentMalformed,
  DocumentUnsupported,
  type Extracted,
  type FileReader,
  type Format,
  type Progress,
} from '../../../integrations/extractors/index.ts';
import { outputsPersisted } from '../events.ts';
import { isExtractable, type ExtractionInput } from '../model.ts';
import { Configurations } from './configurations.ts';
import { Copies } from './copies.ts';
import { ModelUse } from './model-use.ts';
import { DocumentExtractors, DocumentSettings, defaultMinConfidence } from './shared.ts';
import { Tables } from './tables.ts';

type Context = RunContext<ExtractionInput>;

const timeouts = { detectS: 300, extractS: 6 * 3600, persistS: 3600 } as const;
/** How often progress is written down, milliseconds. */
const progressMs = 1_000;
const maxWarnings = 200;

/** Reads the tables of a document, and stores them as they come. */
export async function extract(context: Context): Promise<{ phase: string; reason?: string }> {
  const { app, input, run } = context;
  const document = await app.db.document.findUnique({ where: { id: input.documentId } });
  if (!document || document.removalAskedAt) throw new NotFound('Document', input.documentId);
  const definition = await app.use(Configurations).definition(input.configurationId, input.configurationVersion);
  const minConfidence = definition.minConfidence ?? defaultMinConfidence;
  const copy = app.use(Copies).of({ workspaceId: run.workspaceId, id: document.artifactId }, context.signal);
  const { timeoutS, memoryMb, maxBytes } = app.use(DocumentSettings);
  // One process for both steps, unless another worker has done the first one.
  const reader = app
    .use(DocumentExtractors)
    .open(() => copy.path(), { timeoutMs: timeoutS * 1000, memoryMb, maxBytes });
  try {
    const { format } = await context.step('detect', { timeoutS: timeouts.detectS }, (step) =>
      // What an export made is what it made: nobody else could have.
      document.source === 'EXPORT' && isExtractable(document.format)
        ? Promise.resolve({ format: document.format })
        : detect(step, reader),
    );
    await context.step('extract', { timeoutS: timeouts.extractS }, async (step) => {
      const extractor = definition.extractor ?? 'BUILT_IN';
      // It may have been taken back since.
      if (extractor === 'MODEL') {
        await app.use(ModelUse).requireAllowed(app.db, run.workspaceId);
        await app.use(ModelUse).requireRoom(app.db, run.workspaceId, run.id);
      }
      await context.write((tx) => tx.db.extractionJob.update({ where: { id: run.id }, data: { extractor } }));
      const items = reader.extract({ format, definition, signal: step.signal });
      return store(context, step, items, minConfidence);
    });
  } catch (error) {
    // An abort surfaces in many forms: its reason is what happened.
    if (error instanceof DomainError && !context.signal.aborted)
      await context.write((tx) =>
        tx.db.extractionJob.update({ where: { id: run.id }, data: { errorCode: error.code } }),
      );
    throw error;
  } finally {
    await reader.close();
    await copy.remove();
  }

  await context.moveTo('PERSISTING');
  await context.step(
    'persist',
    { timeoutS: timeouts.persistS },
    async () => null,
    async (tx) => {
      const { tables, rows, cells, review } = await app.use(Tables).finish(tx, run.id);
      await tx.db.extractionJob.update({
        where: { id: run.id },
        data: { tableCount: tables, rowCount: rows, cellCount: cells, reviewCount: review, cellsReserved: 0 },
      });
      const data = { tables, rows: Number(rows), cells: Number(cells), review: Number(review) };
      tx.append({ type: outputsPersisted, workspaceId: run.workspaceId, subjectId: run.id, run, data });
    },
  );
  const { reviewCount } = await app.db.extractionJob.findUniqueOrThrow({ where: { id: run.id } });
  return reviewCount > 0n
    ? { phase: 'NEEDS_REVIEW', reason: `${reviewCount} ${reviewCount === 1n ? 'cell wants' : 'cells want'} a review.` }
    : { phase: 'SUCCEEDED' };
}

/** What the bytes are, asked again: it may have been registered by a program that knew less. */
async function detect(step: StepContext, reader: FileReader): Promise<{ format: Format }> {
  const detected = await reader.detect(step.signal);
  if (detected.encrypted) throw new DocumentEncrypted();
  if (!isExtractable(detected.format)) throw new DocumentUnsupported();
  if (detected.problem) throw new DocumentMalformed();
  await step.log(`It is ${detected.format} (${detected.contentType}).`);
  return { format: detected.format };
}

/** Stores what is read as it is read: what is there when it ends in the middle stays, and says that it is a part. */
async function store(
  context: Context,
  step: StepContext,
  items: AsyncIterable<Extracted | Progress>,
  minConfidence: number,
): Promise<{ tables: number; rows: number; warnings: number }> {
  const { app, run } = context;
  const writer = await app.use(Tables).writer(context, { minConfidence });
  const warnings: { code: string; message: string; page?: number; sheet?: string }[] = [];
  let told = 0;
  let tables = 0;
  let rows = 0;
  let cells = 0;
  let reserved = 0;
  let newest: Progress | null = null;
  let writtenAt = performance.now();
  const note = async (isOver = false) => {
    writtenAt = performance.now();
    const pages = newest?.unit === 'PAGES' ? newest : null;
    const unitsDone = pages && !isOver ? pages.done : (pages?.total ?? rows);
    const unitsTotal = pages ? pages.total : isOver ? rows : (newest?.total ?? null);
    const progress = isOver ? 1 : unitsTotal ? Math.min(1, unitsDone / unitsTotal) : null;
    await context.write(async (tx) => {
      const data = { unitsDone, unitsTotal, unit: pages ? 'PAGES' : 'ROWS', warnings };
      await tx.db.extractionJob.update({ where: { id: run.id }, data });
      if (progress !== null) await tx.db.run.update({ where: { id: run.id }, data: { progress } });
    });
  };
  try {
    for await (const item of items) {
      step.signal.throwIfAborted();
      if (!('type' in item)) newest = item;
      else {
        switch (item.type) {
          case 'table':
            tables++;
            await writer.table(item);
            break;
          case 'rows':
            rows += item.rows.length;
            for (const row of item.rows) cells += row.length;
            if (cells > reserved) reserved = await app.use(Tables).reserve(context, cells);
            await writer.rows(item);
            break;
          case 'tableEnd':
            await writer.tableEnd(item);
            break;
          case 'warning':
            if (warnings.length < maxWarnings) warnings.push(warningOf(item));
            if (++told <= maxWarnings) await step.log(`${item.code}: ${item.message}`);
            break;
          default:
            item satisfies never;
        }
      }
      if (performance.now() - writtenAt >= progressMs) await note();
    }
  } catch (error) {
    // What was read of a table that has not ended stays, as a part, unless another worker owns the run by now.
    if (!context.hardSignal.aborted) await writer.flush();
    throw error;
  }
  // An iteration that was ended by the signal is no end of the document.
  step.signal.throwIfAborted();
  await note(true);
  await step.log(`${tables} ${tables === 1 ? 'table' : 'tables'}, ${rows} rows.`);
  return { tables, rows, warnings: told };
}

const warningOf = ({ code, message, page, sheet }: Extract<Extracted, { type: 'warning' }>) => ({
  code,
  message,
  ...(page === undefined ? {} : { page }),
  ...(sheet === undefined ? {} : { sheet }),
});
