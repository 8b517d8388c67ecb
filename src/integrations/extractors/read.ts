import type { Extracted, Progress } from './extractor.ts';
import type { Task } from './messages.ts';
import type { OpenFile, Reader, TaskFormat } from './raw.ts';
import { inferenceRows, Tables } from './tables.ts';

// What one format needs is loaded for it only.
const readers: Readonly<Record<TaskFormat, () => Promise<Reader>>> = {
  CSV: async () => (await import('./readers/delimited.ts')).readDelimited,
  TSV: async () => (await import('./readers/delimited.ts')).readDelimited,
  XLSX: async () => (await import('./readers/xlsx.ts')).readXlsx,
  XLS: async () => (await import('./readers/xls.ts')).readXls,
  LINES: async () => (await import('./readers/pdf.ts')).readLines,
  PDF: async () => (await import('./readers/pdf.ts')).readPdf,
  DOCX: async () => (await import('./readers/docx.ts')).readDocx,
  HTML: async () => (await import('./readers/html.ts')).readHtml,
  ANSWER: async () => (await import('./readers/answer.ts')).readAnswer,
};

/** Progress that is told, and no more often: rows. */
const progressEvery = 1_000;

/**
 * Tables of an open file. It takes as long and as much memory as the file wants: for a child process.
 * @throws ExtractionError
 */
export async function* readTables(
  file: OpenFile,
  { definition, limits, sampleRows, format }: Omit<Extract<Task, { kind: 'EXTRACT' }>, 'kind'>,
): AsyncGenerator<Extracted | Progress> {
  const reader = await readers[format]();
  // Types are inferred from as many rows as without a sample: it shows what the whole will be.
  const maxRows = sampleRows === null ? Infinity : Math.max(sampleRows, inferenceRows) + 20;
  const source = { ...file, definition, limits, maxRows, format };
  const tables = new Tables(source, sampleRows ?? undefined);
  let rows = 0;
  for await (const raw of reader(source)) {
    // Not delegated: most rows give nothing yet, and that would be waited for.
    for (const item of tables.take(raw)) yield item;
    if (!('type' in raw) || raw.type !== 'row') continue;
    rows += 1;
    if (rows % progressEvery === 0 && format !== 'PDF' && format !== 'LINES')
      yield { step: 'extract', unit: 'ROWS', done: rows, total: null };
  }
}
