// A process of its own: what a hostile file breaks, or holds up, is this process and nothing else. It has the file as an
// open descriptor, may read its own code, and may write nothing.
import { fstat } from 'node:fs';
import { promisify } from 'node:util';
import { DocumentTooLarge } from './errors.ts';
import type { Extracted, Format, Progress } from './extractor.ts';
import { failureOf, fileDescriptor, window, type Asked, type Task, type Told } from './messages.ts';
import type { OpenFile, Reader } from './raw.ts';

const readers: Readonly<Record<Format | 'ANSWER', () => Promise<Reader>>> = {
  CSV: async () => (await import('./readers/delimited.ts')).readDelimited,
  TSV: async () => (await import('./readers/delimited.ts')).readDelimited,
  XLSX: async () => (await import('./readers/xlsx.ts')).readXlsx,
  XLS: async () => (await import('./readers/xls.ts')).readXls,
  PDF: async () => (await import('./readers/pdf.ts')).readPdf,
  DOCX: async () => (await import('./readers/docx.ts')).readDocx,
  HTML: async () => (await import('./readers/html.ts')).readHtml,
  ANSWER: async () => (await import('./readers/answer.ts')).readAnswer,
};

/** Progress that is told, and no more often: rows. */
const progressEvery = 1_000;

const tell = (told: Told): Promise<void> =>
  new Promise((resolve, reject) => {
    process.send?.(told, undefined, {}, (error) => (error ? reject(error) : resolve()));
  });

const flow = { untaken: 0, taken: (): void => undefined };

/** Waits while too much is on its way: the memory of the one who reads is bounded by that. */
async function tellBatch(items: readonly (Extracted | Progress)[]): Promise<void> {
  while (flow.untaken >= window) await new Promise<void>((resolve) => (flow.taken = resolve));
  flow.untaken += 1;
  await tell({ kind: 'BATCH', items });
}

async function extract(task: Extract<Task, { kind: 'EXTRACT' }>, file: OpenFile): Promise<void> {
  const { definition, limits, sampleRows, format } = task;
  const [reader, { Tables, inferenceRows }] = await Promise.all([readers[format](), import('./tables.ts')]);
  // Types are inferred from as many rows as without a sample: it shows what the whole will be.
  const maxRows = sampleRows === null ? Infinity : Math.max(sampleRows, inferenceRows) + 20;
  const source = { ...file, definition, limits, maxRows, format };
  const tables = new Tables(source, sampleRows ?? undefined);
  let rows = 0;
  for await (const raw of reader(source)) {
    for (const item of tables.take(raw)) await tellBatch([item]);
    if (!('type' in raw) || raw.type !== 'row') continue;
    rows += 1;
    if (rows % progressEvery === 0 && format !== 'PDF')
      await tellBatch([{ step: 'extract', unit: 'ROWS', done: rows, total: null }]);
  }
}

async function run(task: Task): Promise<void> {
  const file = { fd: fileDescriptor, sizeBytes: (await promisify(fstat)(fileDescriptor)).size };
  try {
    const { maxBytes } = task.limits;
    if (file.sizeBytes > maxBytes) throw new DocumentTooLarge('maxBytes', maxBytes);
    if (task.kind === 'DETECT') {
      const { detect } = await import('./detect.ts');
      await tell({ kind: 'DETECTED', detected: await detect(file, task.limits) });
    } else await extract(task, file);
    await tell({ kind: 'DONE', peakBytes: process.resourceUsage().maxRSS * 1024 });
  } catch (error) {
    const failure = failureOf(error);
    // What is no error of the document ends this process, and says why on its way out.
    if (!failure) throw error;
    await tell({ kind: 'FAILED', error: failure });
  }
  process.disconnect();
}

process.on('message', (message: Task | Asked) => {
  if (message.kind !== 'TAKEN') return void run(message);
  flow.untaken -= 1;
  flow.taken();
});
// Nobody is there any more who could want it.
process.on('disconnect', () => process.exit());
