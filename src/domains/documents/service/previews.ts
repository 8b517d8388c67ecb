import { service } from '#kernel/app.ts';
import type { Actor } from '#kernel/auth/actor.ts';
import { authorizeRow } from '#kernel/auth/policy.ts';
import { isId } from '#kernel/ids.ts';
import { parse } from '#kernel/input.ts';
import { defineThrottle, Throttles } from '#kernel/rates/throttles.ts';
import {
  ExtractionTimedOut,
  ExtractorUnavailable,
  type Cell,
  type Column,
  type Definition,
  type Extracted,
  type Progress,
} from '../../../integrations/extractors/index.ts';
import { NewPreview } from '../model.ts';
import { can } from '../policy.ts';
import { Configurations, definitionOf, requireExtractor } from './configurations.ts';
import { Copies } from './copies.ts';
import { requireExtractable } from './jobs.ts';
import { Readers } from './readers.ts';

/** What somebody who waits may cost. */
const bounds = { timeoutMs: 20_000, memoryMb: 512 } as const;
/** All of it together, its wait for a turn included, milliseconds. */
const patienceMs = 60_000;
/** More tables, cells and characters of them are not answered: of many the first ones. */
const maxTables = 50;
const maxAnswered = 5_000;
const maxAnsweredChars = 1_000_000;

const previews = defineThrottle({
  name: 'documents.previews',
  description: 'Previews of extractions, for each person or key.',
  points: 60,
  durationS: 300,
  verbs: ['documents.previewExtraction'],
});

/** A table of a preview. */
export interface PreviewTable {
  readonly name: string;
  readonly page: number | null;
  readonly sheet: string | null;
  columns: readonly Column[];
  readonly rows: (readonly Cell[])[];
}

export interface Preview {
  readonly documentId: string;
  readonly tables: readonly PreviewTable[];
  readonly warnings: readonly Extract<Extracted, { type: 'warning' }>[];
  /** Whether there was more than is answered, rows of tables aside. */
  readonly truncated: boolean;
}

/** What a configuration would make of a document, without a job: nothing is stored. */
export const Previews = service('previews of extractions', (app) => ({
  /**
   * @param gone aborts when nobody waits for it any more
   * @throws {ValidationError} {NotFound} {Forbidden} {RateLimited} {DocumentQuarantined} {ExtractionError}
   */
  async extract(actor: Actor, raw: unknown, gone: AbortSignal | null): Promise<Preview> {
    const input = parse(NewPreview, raw);
    const { documentId: id, rows } = input;
    const document = isId(id) ? await app.db.document.findUnique({ where: { id } }) : null;
    authorizeRow(actor, can.previewExtraction, document, 'Document', id);
    const format = requireExtractable(document);
    const { workspaceId, artifactId } = document;
    let definition: Definition;
    if (input.definition == null) {
      ({ definition } = await app.use(Configurations).choose(app.db, workspaceId, input));
    } else {
      definition = definitionOf(input.definition);
      requireExtractor(app, definition);
    }
    if (definition.extractor === 'MODEL')
      throw new ExtractorUnavailable('A preview does not ask the language model: submit a job.');
    await app.use(Throttles).consume(previews, actor.credentialId ?? actor.userId ?? workspaceId);
    const late = AbortSignal.timeout(patienceMs);
    const signal = gone ? AbortSignal.any([gone, late]) : late;
    try {
      return await app.use(Readers).turn(signal, async (extractors) => {
        const copy = app.use(Copies).of({ workspaceId, id: artifactId }, signal);
        try {
          const request = { definition, limits: bounds, signal, sample: { rows } };
          return {
            documentId: id,
            ...(await collect(extractors.extract({ file: await copy.path(), format, ...request }), rows)),
          };
        } finally {
          await copy.remove();
        }
      });
    } catch (error) {
      if (late.aborted && !gone?.aborted) throw new ExtractionTimedOut(patienceMs);
      throw error;
    }
  },
}));

async function collect(items: AsyncIterable<Extracted | Progress>, most: number): Promise<Omit<Preview, 'documentId'>> {
  const tables: PreviewTable[] = [];
  const warnings: Extract<Extracted, { type: 'warning' }>[] = [];
  let cells = 0;
  let chars = 0;
  const full = () => cells >= maxAnswered || chars >= maxAnsweredChars;
  for await (const item of items) {
    if (!('type' in item)) continue;
    switch (item.type) {
      case 'table':
        // To leave the loop ends the process that reads.
        if (full() || tables.length >= maxTables) return { tables, warnings, truncated: true };
        tables.push({
          name: item.name,
          page: item.page ?? null,
          sheet: item.sheet ?? null,
          columns: item.columns,
          rows: [],
        });
        break;
      case 'rows': {
        const table = tables.at(-1);
        for (const row of item.rows) {
          if (!table || table.rows.length >= most || full()) break;
          table.rows.push(row);
          cells += row.length;
          for (const { text } of row) chars += text.length;
        }
        break;
      }
      case 'tableEnd': {
        const table = tables.at(-1);
        if (table) table.columns = item.columns;
        break;
      }
      case 'warning':
        if (warnings.length < 50) warnings.push(item);
        break;
      default:
        item satisfies never;
    }
  }
  return { tables, warnings, truncated: false };
}
