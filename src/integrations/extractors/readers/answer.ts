import { z } from 'zod';
import { DocumentBeyondLimits, ExtractorUnavailable } from '../errors.ts';
import type { Citation } from '../extractor.ts';
import { readBytes, type Raw, type RawCell, type Source } from '../raw.ts';

const box = z.tuple([z.number(), z.number(), z.number().nonnegative(), z.number().nonnegative()]);
const page = z.int().min(1).max(1_000_000);
const place = z.discriminatedUnion('kind', [
  z.object({ kind: z.literal('SHEET'), sheet: z.string().max(200), ref: z.string().max(20) }),
  z.object({ kind: z.literal('PAGE'), page, box }),
  z.object({ kind: z.literal('LINE'), line: z.int().min(1), column: z.int().min(1) }),
  z.object({ kind: z.literal('ELEMENT'), path: z.string().max(200) }),
]);
const cell = z.union([
  z.string(),
  z.null(),
  z.object({
    text: z.string().nullable(),
    /** How sure it is that the text stands there. */
    confidence: z.number().min(0).max(1).optional(),
    page: page.optional(),
    box: box.optional(),
    /** Where it is, when that is no box on a page. */
    at: place.optional(),
    /** Repeats a cell over several rows or columns. */
    merged: z.boolean().optional(),
  }),
]);

/** The answer of an external extractor. docs/documents-extraction.md has it in words. */
const answerSchema = z.object({
  version: z.literal(1),
  tables: z.array(
    z.object({
      name: z.string().max(200).optional(),
      page: page.optional(),
      box: box.optional(),
      headerRows: z.int().min(0).max(10).optional(),
      rows: z.array(z.array(cell)),
    }),
  ),
  warnings: z
    .array(z.object({ message: z.string().max(1000), page: page.optional() }))
    .max(1000)
    .optional(),
});

/** What a text from elsewhere is sure of at most: nobody here has seen how it was found. */
const unknownConfidence = 0.9;

/** @throws ExtractorUnavailable when it is not what was agreed */
export async function* readAnswer(source: Source): AsyncGenerator<Raw> {
  const { tables, warnings } = parseAnswer((await readBytes(source)).toString('utf8'));
  for (const { message, page: at } of warnings ?? [])
    yield { type: 'warning', code: 'EXTERNAL_EXTRACTOR', message, ...(at === undefined ? {} : { page: at }) };
  if (tables.length > source.limits.maxTables) throw new DocumentBeyondLimits('maxTables', source.limits.maxTables);
  for (const [index, table] of tables.entries()) {
    yield {
      type: 'table',
      name: table.name ?? `Table ${index + 1}`,
      ...(table.page === undefined ? {} : { page: table.page }),
      ...(table.box === undefined ? {} : { box: table.box }),
      ...(table.headerRows === undefined ? {} : { headers: table.headerRows }),
    };
    for (const [at, row] of table.rows.slice(0, source.maxRows).entries()) {
      const cells = row.map((given): RawCell | undefined => {
        if (given === null || typeof given === 'string')
          return given ? { text: given, place: unknownConfidence } : undefined;
        if (!given.text) return undefined;
        const note = given.merged ? { note: 'MERGED' as const } : {};
        return { text: given.text, place: given.confidence ?? unknownConfidence, ...note };
      });
      yield {
        type: 'row',
        cells,
        cite: (column): Citation => {
          const given = row[column];
          const own = given !== null && typeof given === 'object' ? given : undefined;
          if (own?.at) return own.at;
          const where = own?.page ?? table.page;
          const what = own?.box ?? table.box;
          return where !== undefined && what
            ? { kind: 'PAGE', page: where, box: what }
            : { kind: 'ELEMENT', path: `table ${index + 1}, row ${at + 1}, cell ${column + 1}` };
        },
      };
    }
    yield { type: 'end' };
  }
}

function parseAnswer(text: string): z.infer<typeof answerSchema> {
  const parsed = answerSchema.safeParse(jsonOf(text));
  if (parsed.success) return parsed.data;
  const [issue] = parsed.error.issues;
  const where = issue?.path.join('.').slice(0, 100) ?? '';
  throw new ExtractorUnavailable(`The external extractor's answer is not as agreed${where ? `, at ${where}` : ''}.`);
}

const jsonOf = (text: string): unknown => {
  try {
    return JSON.parse(text) as unknown;
  } catch {
    return undefined; // no JSON: not what the schema wants either
  }
};
